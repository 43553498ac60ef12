// Picking a token among the candidates of a drafter's clusters, as pick.cu among all ids.
//
//   candidate i of a row: id cluster_ids[clusters[i / m]][i % m], value logits[i], m = cluster_rows
//
// Shapes    logits [rows, stride] f32, clusters [rows, chosen], chosen * m <= 4096.
// Launch    grid = count, block = 256: 16 candidates per thread, in registers.
// Order     integers alone are added (MassOf), in any order. A cut is the rank at which a target is
//           reached, found bit by bit (RankReaching): 52 sums over the block each.
// Traffic   per candidate 4 B of logits, 4 B of cluster_ids, 4 B of clusters (one value for m
//           candidates: L1) and, where ids are suppressed, 4 B of their words; per request 40 B.
// Roofline  latency: 64 KiB at most; about 4 us per cut that is on.
// Truth     engine::SampleAmong (engine/sampler.cc); tests/emu/pick_among_test.cc.
#include "kernels/cuda/pick.h"
#include "kernels/cuda/pick_draw.h"
#include "kernels/cuda/pick_rank.h"

namespace tandem::kernels::K_WORLD {

constexpr int kCandidatesPerThread = 16;
constexpr int kMaxCandidates = kCandidatesPerThread * kPickThreads;

__global__ void __launch_bounds__(kPickThreads) PickAmongKernel(PickAmongArgs args) {
  K_SHARED(uint64_t, warps, 2 * kPickWarps);
  K_SHARED(PickRequest, shared_request, 1);
  K_SHARED(float, shared_lowest, 1);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) shared_request[0] = LoadRequest(args.requests + blockIdx.x);
  __syncthreads();
  const PickRequest request = shared_request[0];
  const float* const row = args.logits + request.row * args.stride;
  const int32_t* const clusters = args.clusters + int64_t{request.row} * args.chosen;
  const int candidates = args.chosen * args.cluster_rows;

  uint64_t ranks[kCandidatesPerThread], best = kNoRank;
  K_UNROLL
  for (int i = 0; i < kCandidatesPerThread; ++i) {
    const int at = i * kPickThreads + thread;
    ranks[i] = kNoRank;
    if (at < candidates) {
      const int cluster = ld_nc(clusters + at / args.cluster_rows);
      const int32_t id =
          ld_nc(args.cluster_ids + int64_t{cluster} * args.cluster_rows + at % args.cluster_rows);
      const float value = ld_nc(row + at);
      if (!IsLogit(value)) {
        best = kBrokenRank;
      } else if ((SuppressedWord(args.suppressed, id) >> id % 32 & 1) == 0 &&
                 value > kMinusInfinity) {
        ranks[i] = RankOf(value, id);
        best = Larger(best, ranks[i]);
      }
    }
  }
  best = BlockMax(best, warps);
  if (best == kBrokenRank) best = kNoRank;
  if (best == kNoRank || !Draws(request)) {
    if (thread == 0) StorePick(args.ids + blockIdx.x, args.finite + blockIdx.x, best);
    return;
  }

  const float max = ValueOfRank(best);
  if (thread == 0) {
    shared_lowest[0] = request.min_p > 0.0f ? LowestOfMinP(request, max) : kMinusInfinity;
  }
  uint64_t cut = 1;  // the lowest rank that is left
  uint64_t weights[kCandidatesPerThread];
  if (CutsTopK(request)) {
    K_UNROLL
    for (int i = 0; i < kCandidatesPerThread; ++i) weights[i] = ranks[i] != kNoRank ? 1 : 0;
    cut = Larger(cut, RankReaching(ranks, weights, static_cast<uint64_t>(request.top_k), warps));
  }
  if (CutsTopP(request)) {
    uint64_t sum = 0;
    K_UNROLL
    for (int i = 0; i < kCandidatesPerThread; ++i) {
      weights[i] = ranks[i] >= cut ? MassOf(ValueOfRank(ranks[i]), max, request.temperature) : 0;
      sum += weights[i];
    }
    const uint64_t target = MassOfShare(request.top_p, BlockSums(sum, warps).total);
    cut = Larger(cut, RankReaching(ranks, weights, target, warps));
  }
  __syncthreads();  // shared_lowest
  uint64_t winner = kNoRank;
  K_UNROLL
  for (int i = 0; i < kCandidatesPerThread; ++i) {
    const float value = ValueOfRank(ranks[i]);
    if (ranks[i] >= cut && value >= shared_lowest[0]) {
      const int32_t id = IdOfRank(ranks[i]);
      const uint4 words = NoiseWords(request, id / 4);
      const uint32_t word = id % 4 == 0   ? words.x
                            : id % 4 == 1 ? words.y
                            : id % 4 == 2 ? words.z
                                          : words.w;
      winner = Larger(winner, RankOf(ScoreOf(value, max, request.temperature, word), id));
    }
  }
  winner = BlockMax(winner, warps);
  if (thread == 0) StorePick(args.ids + blockIdx.x, args.finite + blockIdx.x, winner);
}

bool PickAmongSupports(int candidates) { return candidates >= 1 && candidates <= kMaxCandidates; }

void PickAmong(const PickAmongArgs& args, Stream stream) {
  if (args.count == 0) return;
  launch(PickAmongKernel, args.count, kPickThreads, 0, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
