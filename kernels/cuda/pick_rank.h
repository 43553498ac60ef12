// Values with their ids as integers, and what a block of threads makes of such integers: the
// largest, sums, the rank at which a sum of weights is reached.
//
// Ranks are compared and weights are added as integers, so no result depends on an order.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

constexpr int kPickThreads = 256;  // of every kernel that picks
constexpr int kPickWarps = kPickThreads / kWarp;

constexpr float kMinusInfinity = -__builtin_huge_valf();
constexpr float kLargestFloat = 0x1.fffffep+127f;

// A key rises with its value; -0 has that of 0. No NaN has one.
constexpr uint32_t kLowestKey = 0x007fffffu;  // of -infinity
K_DEVICE uint32_t KeyOf(float value) {
  const uint32_t bits = f32_bits(add_rn(value, 0.0f));
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
K_DEVICE float ValueOfKey(uint32_t key) {
  return f32_of_bits((key >> 31) != 0 ? key & 0x7fffffffu : ~key);
}

// A rank rises with the value, and among equal values with falling id: the order of
// engine::ComesFirst.
constexpr int kIdBits = 20;
constexpr int kRankBits = 32 + kIdBits;
constexpr int32_t kLastId = (1 << kIdBits) - 1;
constexpr uint64_t kNoRank = 0;                 // below all
constexpr uint64_t kBrokenRank = ~uint64_t{0};  // above all: stands for a NaN or +infinity

K_DEVICE uint64_t RankOf(float value, int32_t id) {
  return uint64_t{KeyOf(value)} << kIdBits | static_cast<uint32_t>(kLastId - id);
}
K_DEVICE uint32_t KeyOfRank(uint64_t rank) { return static_cast<uint32_t>(rank >> kIdBits); }
K_DEVICE float ValueOfRank(uint64_t rank) { return ValueOfKey(KeyOfRank(rank)); }
K_DEVICE int32_t IdOfRank(uint64_t rank) {
  return kLastId - static_cast<int32_t>(rank & static_cast<uint32_t>(kLastId));
}

// False for NaN and +infinity.
K_DEVICE bool IsLogit(float value) { return value <= kLargestFloat; }
// Whether the largest rank of a row lets anything be picked from it.
K_DEVICE bool CanPick(uint64_t best) { return best != kBrokenRank && KeyOfRank(best) > kLowestKey; }

K_DEVICE uint64_t Larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

// The largest x of the block, in every thread. `warps`, [kPickWarps] in shared memory, may still be
// read by others of the block.
K_DEVICE uint64_t BlockMax(uint64_t x, uint64_t* warps) {
  K_UNROLL
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    x = Larger(x, __shfl_xor_sync(kFullMask, x, distance));
  }
  __syncthreads();  // the last use of `warps` is over
  if (lane_id() == 0) warps[warp_id()] = x;
  __syncthreads();
  K_UNROLL
  for (int w = 0; w < kPickWarps; ++w) x = Larger(x, warps[w]);
  return x;
}

struct Sums {
  uint64_t before;  // of the threads below this one
  uint64_t total;
};

// `warps` as above.
K_DEVICE Sums BlockSums(uint64_t x, uint64_t* warps) {
  uint64_t sum = x;
  K_UNROLL
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const uint64_t other = __shfl_up_sync(kFullMask, sum, distance);
    if (lane_id() >= distance) sum += other;
  }
  __syncthreads();  // the last use of `warps` is over
  if (lane_id() == kWarp - 1) warps[warp_id()] = sum;
  __syncthreads();
  Sums sums = {.before = sum - x, .total = 0};
  K_UNROLL
  for (int w = 0; w < kPickWarps; ++w) {
    if (w < warp_id()) sums.before += warps[w];
    sums.total += warps[w];
  }
  return sums;
}

// The largest rank r for which the weights of ranks >= r add up to `target`; 0 where all of them do
// not. Ranks of weight 0 do not matter, the others are distinct, so r is the one that reaches it.
//   ranks, weights  the thread's share
//   warps           [2 * kPickWarps] in shared memory; may still be read by others
template <int kShare>
K_DEVICE uint64_t RankReaching(const uint64_t (&ranks)[kShare], const uint64_t (&weights)[kShare],
                               uint64_t target, uint64_t* warps) {
  __syncthreads();  // the last use of `warps` is over
  uint64_t reached = 0;
  for (int bit = kRankBits - 1; bit >= 0; --bit) {
    const uint64_t candidate = reached | uint64_t{1} << bit;
    uint64_t sum = 0;
    K_UNROLL
    for (int i = 0; i < kShare; ++i) sum += ranks[i] >= candidate ? weights[i] : 0;
    K_UNROLL
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(kFullMask, sum, distance);
    }
    // Two halves take turns: one barrier keeps a bit's sums from the next but one.
    uint64_t* const half = warps + bit % 2 * kPickWarps;
    if (lane_id() == 0) half[warp_id()] = sum;
    __syncthreads();
    sum = 0;
    K_UNROLL
    for (int w = 0; w < kPickWarps; ++w) sum += half[w];
    if (sum >= target) reached = candidate;
  }
  return reached;
}

}  // namespace tandem::kernels::K_WORLD
