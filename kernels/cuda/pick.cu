// The first and the last pass of picking a token: the best of each tile, and the draw.
//
//   id = argmax (z[id] - max z) / temperature + noise(seed, position, choice, id)
//        over the ids that top-k, top-p and min-p leave; argmax z for temperature 0. Ties: lowest
//        id
//
// Shapes    logits [rows, stride] f32, vocab <= 2^19; requests, ids, finite [count].
// Launch    grid = count * ceil(vocab / 4096), block = 256 for each pass: scan, six cuts
//           (pick_cuts.cu; none with args.cuts false), draw. Depends on count and vocab alone.
//           Blocks of requests that a pass does not concern return at once.
// Order     nothing is summed in floating point: maxima of integers, in any order.
// Traffic   T = ceil(vocab / 4096). The scan reads 4*vocab B per request, and so does each further
//           pass of a request: draw (1, none when greedy), top-k (3), top-p (3); from L2 but for
//           the first. Where ids are suppressed vocab/8 B more. A block of the later passes reads
//           8*T + 88 B of results; scan and draw write 8*T B per request, cuts read and write
//           16 KiB per pass.
// Roofline  memory bound: 128 rows of 262144 from L2 and DRAM, four passes 0.12 ms (kernels.md
//           5.9). One row is bound by launches, nine of them with cuts, two without.
// Truth     engine::Sample (engine/sampler.cc); tests/emu/pick_test.cc.
#include <type_traits>

#include "kernels/cuda/pick.h"
#include "kernels/cuda/pick_passes.h"

namespace tandem::kernels::K_WORLD {

__global__ void __launch_bounds__(kPickThreads) PickScanKernel(PickPasses passes) {
  K_SHARED(uint64_t, warps, kPickWarps);
  K_SHARED(uint32_t, suppressed, kSuppressedWords);
  K_SHARED(int32_t, shared_row, 1);
  const PickArgs& args = passes.args;
  const PickPlace at = PlaceOfBlock(passes);
  const int thread = static_cast<int>(threadIdx.x);
  LoadSuppressed(args, at.first_id, suppressed);
  if (args.cuts) {
    uint64_t* const bins = passes.bins + int64_t{at.request} * kCutBins;
    for (int i = at.tile * kPickThreads + thread; i < kCutBins; i += passes.tiles * kPickThreads) {
      st(bins + i, uint64_t{0});
    }
  }
  if (at.tile == 0 && thread == 0) {
    StoreCut(passes.cuts + at.request, PickCut{});
    st(passes.arrived + at.request, 0);
  }
  if (thread == kWarp) shared_row[0] = ld_nc(&args.requests[at.request].row);
  __syncthreads();
  const float* const row = args.logits + shared_row[0] * args.stride;
  float best = kMinusInfinity;
  int best_id = kLastId;
  bool broken = false;
  K_UNROLL
  for (int step = 0; step < kPickTile; step += kPickStep) {
    const int offset = step + thread * kQuad;
    const Quad values = LoadQuad(args, row, at.first_id + offset, suppressed[offset / 32]);
    K_UNROLL
    for (int i = 0; i < kQuad; ++i) {
      broken |= !IsLogit(values[i]);
      if (values[i] > best) {
        best = values[i];
        best_id = at.first_id + offset + i;
      }
    }
  }
  const uint64_t rank = BlockMax(broken ? kBrokenRank : RankOf(best, best_id), warps);
  if (thread == 0) st(passes.best + int64_t{at.request} * passes.tiles + at.tile, rank);
}

__global__ void __launch_bounds__(kPickThreads) PickDrawKernel(PickPasses passes) {
  K_SHARED(uint64_t, warps, kPickWarps);
  K_SHARED(uint32_t, suppressed, kSuppressedWords);
  K_SHARED(PickRequest, shared_request, 1);
  K_SHARED(PickCut, shared_cut, 1);
  K_SHARED(float, shared_lowest, 1);
  K_SHARED(int, last, 1);
  const PickArgs& args = passes.args;
  const PickPlace at = PlaceOfBlock(passes);
  const int thread = static_cast<int>(threadIdx.x);
  LoadSuppressed(args, at.first_id, suppressed);
  if (thread == 0) shared_request[0] = LoadRequest(args.requests + at.request);
  if (thread == kWarp) shared_cut[0] = LoadCut(passes.cuts + at.request);
  const uint64_t best = BestOfRow(passes, at.request, warps);  // a barrier for all of the above
  const PickRequest request = shared_request[0];
  const PickCut cut = shared_cut[0];
  if (!CanPick(best) || !Draws(request)) {
    if (at.tile == 0 && thread == 0) {
      StorePick(args.ids + at.request, args.finite + at.request, CanPick(best) ? best : kNoRank);
    }
    return;
  }

  const float max = ValueOfRank(best);
  if (thread == 0) {
    shared_lowest[0] = request.min_p > 0.0f ? LowestOfMinP(request, max) : kMinusInfinity;
  }
  __syncthreads();
  const float lowest = shared_lowest[0];
  const float* const row = args.logits + request.row * args.stride;
  uint64_t winner = kNoRank;
  for (int step = 0; step < kPickTile; step += kPickStep) {
    const int offset = step + thread * kQuad, id = at.first_id + offset;
    const Quad values = LoadQuad(args, row, id, suppressed[offset / 32]);
    bool left[kQuad], any = false;
    K_UNROLL
    for (int i = 0; i < kQuad; ++i) {
      left[i] = IsLeft(cut, values[i], id + i) && values[i] >= lowest;
      any |= left[i];
    }
    if (!any) continue;
    const uint4 words = NoiseWords(request, id / kQuad);
    const uint32_t word[kQuad] = {words.x, words.y, words.z, words.w};
    K_UNROLL
    for (int i = 0; i < kQuad; ++i) {
      if (!left[i]) continue;
      const float score = ScoreOf(values[i], max, request.temperature, word[i]);
      winner = Larger(winner, RankOf(score, id + i));
    }
  }
  winner = BlockMax(winner, warps);
  uint64_t* const winners = passes.winner + int64_t{at.request} * passes.tiles;
  if (thread == 0) st(winners + at.tile, winner);
  if (!IsLastBlock(passes, at.request, &last[0])) return;
  winner = kNoRank;
  for (int i = thread; i < passes.tiles; i += kPickThreads)
    winner = Larger(winner, ld(winners + i));
  winner = BlockMax(winner, warps);
  if (thread == 0) StorePick(args.ids + at.request, args.finite + at.request, winner);
}

static int TilesOf(int vocab) { return (vocab + kPickTile - 1) / kPickTile; }

size_t PlacePasses(const PickArgs& args, PickPasses* passes) {
  std::byte* const base = args.workspace;
  size_t used = 0;
  const auto take = [&](auto*& array, size_t per_request) {
    using T = std::remove_reference_t<decltype(*array)>;
    array = base == nullptr ? nullptr : reinterpret_cast<T*>(base + used);
    used += (sizeof(T) * per_request * static_cast<size_t>(args.count) + 15) / 16 * 16;
  };
  passes->args = args;
  passes->tiles = TilesOf(args.vocab);
  take(passes->best, static_cast<size_t>(passes->tiles));
  take(passes->winner, static_cast<size_t>(passes->tiles));
  take(passes->bins, args.cuts ? kCutBins : 0);
  take(passes->cuts, 1);
  take(passes->arrived, 1);
  return used;
}

bool PickSupports(int vocab) { return vocab >= 1 && vocab <= 1 << 19; }

size_t PickWorkspaceBytes(int count, int vocab, bool cuts) {
  PickPasses passes;
  return PlacePasses({.count = count, .vocab = vocab, .cuts = cuts}, &passes);
}

void Pick(const PickArgs& args, Stream stream) {
  if (args.count == 0) return;
  PickPasses passes;
  PlacePasses(args, &passes);
  const int blocks = args.count * passes.tiles;
  launch(PickScanKernel, blocks, kPickThreads, 0, stream, passes);
  if (args.cuts) LaunchPickCuts(passes, stream);
  launch(PickDrawKernel, blocks, kPickThreads, 0, stream, passes);
}

}  // namespace tandem::kernels::K_WORLD
