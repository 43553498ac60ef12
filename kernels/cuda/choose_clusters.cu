// The clusters with the largest scores.
//
// Shapes    scores [rows, stride] f32, clusters <= 4096; ids [rows, chosen].
// Launch    grid = rows, block = 256: thread i holds scores 16*i .. 16*i + 15.
// Order     integers alone: the rank that `chosen` clusters reach is found bit by bit
//           (RankReaching), which settles ties too.
// Traffic   reads 4*clusters B, writes 4*chosen + 4 B per row.
// Roofline  latency: 52 sums over a block, about 3 us.
// Truth     engine::ChooseClusters (engine/draft_choice.cc); tests/emu/choose_clusters_test.cc.
#include "kernels/cuda/choose_clusters.h"
#include "kernels/cuda/pick_rank.h"

namespace tandem::kernels::K_WORLD {

constexpr int kScoresPerThread = 16;
constexpr int kMaxClusters = kScoresPerThread * kPickThreads;

__global__ void __launch_bounds__(kPickThreads) ChooseClustersKernel(ChooseClustersArgs args) {
  K_SHARED(uint64_t, warps, 2 * kPickWarps);
  const int thread = static_cast<int>(threadIdx.x);
  const float* const row = args.scores + int64_t{blockIdx.x} * args.stride;
  uint64_t ranks[kScoresPerThread], weights[kScoresPerThread], usable = 0;
  bool broken = false;
  K_UNROLL
  for (int i = 0; i < kScoresPerThread; ++i) {
    const int cluster = thread * kScoresPerThread + i;
    const float score = cluster < args.clusters ? ld_nc(row + cluster) : kMinusInfinity;
    broken |= !IsLogit(score);
    weights[i] = score > kMinusInfinity ? 1 : 0;
    ranks[i] = weights[i] != 0 ? RankOf(score, cluster) : kNoRank;
    usable += weights[i];
  }
  const uint64_t chosen = static_cast<uint64_t>(args.chosen);
  const bool finite = BlockSums(usable, warps).total >= chosen && __syncthreads_or(broken) == 0;
  int32_t* const ids = args.ids + int64_t{blockIdx.x} * args.chosen;
  if (thread == 0) st(args.finite + blockIdx.x, finite ? 1 : 0);
  if (!finite) {
    for (int i = thread; i < args.chosen; i += kPickThreads) st(ids + i, i);
    return;
  }
  const uint64_t last = RankReaching(ranks, weights, chosen, warps);
  uint64_t mine = 0;
  K_UNROLL
  for (int i = 0; i < kScoresPerThread; ++i) mine += ranks[i] >= last ? 1 : 0;
  int at = static_cast<int>(BlockSums(mine, warps).before);
  K_UNROLL
  for (int i = 0; i < kScoresPerThread; ++i) {
    if (ranks[i] >= last) st(ids + at++, thread * kScoresPerThread + i);
  }
}

bool ChooseClustersSupports(int clusters, int chosen) {
  return clusters <= kMaxClusters && chosen >= 1 && chosen <= clusters;
}

void ChooseClusters(const ChooseClustersArgs& args, Stream stream) {
  if (args.rows == 0) return;
  launch(ChooseClustersKernel, args.rows, kPickThreads, 0, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
