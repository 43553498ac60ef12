// What the passes of Pick share: how a row is cut into tiles and read, and what one pass leaves for
// the next.
//
// PickScanKernel (pick.cu)      the best of each tile; clears what the others count in
// PickCutKernel (pick_cuts.cu)  narrows one of the two cuts down, six times
// PickDrawKernel (pick.cu)      the draw among what the cuts leave
#pragma once

#include "kernels/cuda/kport.h"
#include "kernels/cuda/pick.h"
#include "kernels/cuda/pick_draw.h"
#include "kernels/cuda/pick_rank.h"

namespace tandem::kernels::K_WORLD {

constexpr int kPickTile = 4096;  // ids of a block
constexpr int kQuad = 4;         // ids that a thread reads at once, those of one Philox counter
constexpr int kPickStep = kQuad * kPickThreads;
constexpr int kSuppressedWords = kPickTile / 32;
using Quad = Vec<float, kQuad>;

// Keys are searched for 11, 11 and 10 bits at a time.
constexpr int kCutLevels = 3;
constexpr int kCutBins = 2048;

// What a request's cuts leave of its row: ids whose key is above `key`, and ids up to last_id that
// have it. The other fields are those of the search.
struct alignas(8) PickCut {
  uint64_t above = 0;         // weight of the keys above all that begin with `prefix`
  uint64_t target = 0;        // weight to reach
  uint32_t key = kLowestKey;  // which no id has that can be picked: nothing is cut
  int32_t last_id = -1;
  uint32_t ties = 0;       // how many of the ids with `key` are left
  uint32_t partial = 0;    // 1: there are more
  uint32_t prefix = 0;     // leading bits of the key to come
  uint32_t searching = 0;  // 1 between the levels of a search
};

K_DEVICE bool IsLeft(const PickCut& cut, float value, int id) {
  const uint32_t key = KeyOf(value);
  return key > cut.key || (key == cut.key && id <= cut.last_id);
}

// The workspace. A request's best ranks and winners lie by tile.
struct PickPasses {
  PickArgs args;
  int tiles;
  uint64_t* best;    // [count, tiles] largest rank of the row there; kBrokenRank
  uint64_t* winner;  // [count, tiles] largest rank of the scores there
  uint64_t* bins;    // [count, kCutBins] zero between passes; absent without cuts
  PickCut* cuts;     // [count]
  int32_t* arrived;  // [count] blocks of the pass that are done; zero between passes
};

K_DEVICE PickCut LoadCut(const PickCut* from) {
  return {.above = ld(&from->above),
          .target = ld(&from->target),
          .key = ld(&from->key),
          .last_id = ld(&from->last_id),
          .ties = ld(&from->ties),
          .partial = ld(&from->partial),
          .prefix = ld(&from->prefix),
          .searching = ld(&from->searching)};
}

K_DEVICE void StoreCut(PickCut* to, const PickCut& cut) {
  st(&to->above, cut.above);
  st(&to->target, cut.target);
  st(&to->key, cut.key);
  st(&to->last_id, cut.last_id);
  st(&to->ties, cut.ties);
  st(&to->partial, cut.partial);
  st(&to->prefix, cut.prefix);
  st(&to->searching, cut.searching);
}

// The words of `suppressed` for a tile, in all threads behind the next barrier; past the end 0.
K_DEVICE void LoadSuppressed(const PickArgs& args, int first_id, uint32_t* words) {
  const int i = static_cast<int>(threadIdx.x);
  const int id = first_id + 32 * i;
  if (i < kSuppressedWords) words[i] = id < args.vocab ? SuppressedWord(args.suppressed, id) : 0;
}

// The logits of ids id .. id + 3: -infinity past the end and where `word`, that of the ids, has
// them suppressed.
K_DEVICE Quad LoadQuad(const PickArgs& args, const float* row, int id, uint32_t word) {
  Quad values;
  if (args.stride % kQuad == 0 && id + kQuad <= args.vocab) {
    values = ld_nc(reinterpret_cast<const Quad*>(row + id));
  } else {
    K_UNROLL
    for (int i = 0; i < kQuad; ++i) {
      values[i] = id + i < args.vocab ? ld_nc(row + id + i) : kMinusInfinity;
    }
  }
  K_UNROLL
  for (int i = 0; i < kQuad; ++i) {
    if ((word >> (id + i) % 32 & 1) != 0) values[i] = kMinusInfinity;
  }
  return values;
}

// Where a block stands.
struct PickPlace {
  int request;
  int tile;
  int first_id;
};
K_DEVICE PickPlace PlaceOfBlock(const PickPasses& passes) {
  const int block = static_cast<int>(blockIdx.x);
  const int tile = block % passes.tiles;
  return {block / passes.tiles, tile, tile * kPickTile};
}

// What the scan found for the request of the block, in every thread: the rank of its best id.
K_DEVICE uint64_t BestOfRow(const PickPasses& passes, int request, uint64_t* warps) {
  uint64_t best = kNoRank;
  for (int i = static_cast<int>(threadIdx.x); i < passes.tiles; i += kPickThreads) {
    best = Larger(best, ld(passes.best + int64_t{request} * passes.tiles + i));
  }
  return BlockMax(best, warps);
}

// True in all threads of the last of a request's blocks to come here; what the others wrote before
// is then visible. `last` is shared.
K_DEVICE bool IsLastBlock(const PickPasses& passes, int request, int* last) {
  thread_fence();
  __syncthreads();  // all of this block's writes are done
  if (threadIdx.x == 0) {
    *last = atomic_add_i32(passes.arrived + request, 1) == passes.tiles - 1;
    if (*last != 0) st(passes.arrived + request, 0);
  }
  __syncthreads();
  thread_fence();
  return *last != 0;
}

// Cuts args.workspace up and returns how much of it is used; null where that alone is asked.
size_t PlacePasses(const PickArgs& args, PickPasses* passes);

void LaunchPickCuts(const PickPasses& passes, Stream stream);

}  // namespace tandem::kernels::K_WORLD
