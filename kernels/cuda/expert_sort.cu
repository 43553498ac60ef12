// A stable counting sort of pairs (row, chosen expert) by expert, and the tiles it makes.
//
//   order     places of expert e: behind all pairs of lower experts, its own in ascending order
//   tiles     of expert e: its places in runs of tile_rows, the last one shorter
//
// Shapes    ids, order [pairs] int32; experts <= 1024.
// Launch    grid = experts, block = 256: a block places the pairs of one expert. It counts all
//           pairs by expert in shared memory (integers: any order of additions gives the same), and
//           warp w then places what it finds of its own in the w-th eighth of the pairs.
// Traffic   reads 8*pairs*experts B of ids (from L2 after the first), writes 4*pairs B of order and
//           16 B per tile and 4 B for their number.
// Roofline  latency bound: 1024 pairs are 4 KB that every block reads twice.
// Truth     std::stable_sort; tests/emu/expert_sort_test.cc.
#include "kernels/cuda/expert_sort.h"
#include "kernels/cuda/route.h"

namespace tandem::kernels::K_WORLD {

constexpr int kSortThreads = 256;
constexpr int kSortWarps = kSortThreads / kWarp;

// The sum over the warp, in every lane.
K_DEVICE int32_t SumOfLanes(int32_t x) {
  K_UNROLL
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(kFullMask, x, distance);
  }
  return x;
}

__global__ void __launch_bounds__(kSortThreads) SortByExpertKernel(ExpertSortArgs a) {
  K_SHARED(int32_t, pairs_of, kMaxExperts);
  K_SHARED(int32_t, own_of_warp, kSortWarps);
  const int thread = static_cast<int>(threadIdx.x);
  const int expert = static_cast<int>(blockIdx.x);
  for (int e = thread; e < a.experts; e += kSortThreads) pairs_of[e] = 0;
  __syncthreads();

  const int share = (a.pairs + kSortThreads - 1) / kSortThreads * kWarp;
  const int first = warp_id() * share < a.pairs ? warp_id() * share : a.pairs;
  const int last = first + share < a.pairs ? first + share : a.pairs;
  int32_t own = 0;
  for (int i = first + lane_id(); i < last; i += kWarp) {
    const int32_t id = ld_nc(a.ids + i);
    atomic_add_i32(&pairs_of[id], 1);
    own += id == expert ? 1 : 0;
  }
  own = SumOfLanes(own);
  if (lane_id() == 0) own_of_warp[warp_id()] = own;
  __syncthreads();

  int32_t begin = 0, first_tile = 0;
  for (int e = lane_id(); e < expert; e += kWarp) {
    begin += pairs_of[e];
    first_tile += (pairs_of[e] + a.tile_rows - 1) / a.tile_rows;
  }
  begin = SumOfLanes(begin);
  first_tile = SumOfLanes(first_tile);
  const int32_t end = begin + pairs_of[expert];

  int32_t place = begin;
  for (int w = 0; w < warp_id(); ++w) place += own_of_warp[w];
  for (int i = first; i < last; i += kWarp) {
    const int pair = i + lane_id();
    const bool is_own = pair < last && ld_nc(a.ids + pair) == expert;
    const uint32_t owned = __ballot_sync(kFullMask, is_own);
    if (is_own) st(a.order + place + popc(owned & ((1u << lane_id()) - 1)), int32_t{pair});
    place += popc(owned);
  }

  const int tiles = (end - begin + a.tile_rows - 1) / a.tile_rows;
  for (int j = thread; j < tiles; j += kSortThreads) {
    const int32_t tile_begin = begin + j * a.tile_rows;
    const int32_t tile_end = tile_begin + a.tile_rows < end ? tile_begin + a.tile_rows : end;
    st(a.tiles + first_tile + j, ExpertTile{expert, tile_begin, tile_end});
  }
  if (expert == a.experts - 1 && thread == 0) st(a.num_tiles, int32_t{first_tile + tiles});
}

void SortByExpert(const ExpertSortArgs& args, Stream stream) {
  launch(SortByExpertKernel, args.experts, kSortThreads, 0, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
