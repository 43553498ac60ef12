// One block's part of y = W x for few rows: partial sums in shared memory, in the canonical order.
//
//   s_j  = sum over the groups of 64 k of segment j, ascending, each a chain of four matrix
//          instructions that starts from 0; y = ((s_0 + s_1) + s_2) ... + s_7   (kernels.md 5.5.1)
//   segment j of 8 is k in [b_j, b_j+1), b_j = floor(ceil(in/64) * j / 8) * 64, cut at `in`
//
// Order     a function of `in` alone: a value's bits are the same in every tile shape, whatever
//           rows and outputs share the tile.
// Others    Operands of another kind with x, rows, in and out have a SumSegments and a
//           SumSegmentsOfRows of their own (w_linear_codes_tile.h: int8, int4).
// Not here  what becomes of the sums (w_linear_store.h, head.cu).
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

constexpr int kLinearThreads = 256;
constexpr int kLinearSegments = kLinearThreads / kWarp;  // one per warp
constexpr int kLinearGroup = 64;                         // k

struct LinearOperands {
  const bf16* x = nullptr;  // [rows, x_stride], `in` values used; 16-byte aligned
  int64_t x_stride = 0;     // a multiple of 8
  const bf16* w = nullptr;  // [out, in], 16-byte aligned
  int rows = 0;
  int in = 0;  // a multiple of 8, below 2^25
  int out = 0;
};

// A block makes 16 * kTiles outputs of 8 * kColumns rows.
template <int kTiles, int kColumns>
struct LinearTile {
  static constexpr int kOutputs = 16 * kTiles;
  static constexpr int kRows = 8 * kColumns;
  // Partial sums [segment][row][output]; 4 unused ones at the end of a row put the stores of a warp
  // into different banks.
  static constexpr int kStride = kOutputs + 4;
  static constexpr int kPartials = kLinearSegments * kRows * kStride;
};

struct LinearPosition {
  int first_row;
  int first_output;
};

// Blocks that share weights are neighbours, so that the second one finds them in L2.
template <int kTiles, int kColumns, typename Operands>
K_DEVICE LinearPosition PositionOfBlock(const Operands& a) {
  using Tile = LinearTile<kTiles, kColumns>;
  const int block = static_cast<int>(blockIdx.x);
  const int row_blocks = (a.rows + Tile::kRows - 1) / Tile::kRows;
  return {block % row_blocks * Tile::kRows, block / row_blocks * Tile::kOutputs};
}

template <typename Operands>
int LinearBlocks(const Operands& a, int tiles, int columns) {
  const int outputs = 16 * tiles, rows = 8 * columns;
  return (a.rows + rows - 1) / rows * ((a.out + outputs - 1) / outputs);
}

// Eight values, or zeros.
K_DEVICE uint4 LoadOrZero(const bf16* p, bool valid) {
  return valid ? ld_nc_16(p) : uint4{0u, 0u, 0u, 0u};
}

// A lane's weights of one group: [tile][output g, g + 8][first, second 32 k], 8 consecutive k each.
// w points at output g and k of the lane in tile 0; k is the lane's too.
template <int kTiles>
K_DEVICE void LoadWeights(uint4 (&to)[kTiles][2][2], const bf16* w, int in, int outputs_left, int k,
                          int end) {
  K_UNROLL
  for (int r = 0; r < kTiles; ++r) {
    K_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int output = 16 * r + 8 * half;
      K_UNROLL
      for (int p = 0; p < 2; ++p) {
        to[r][half][p] =
            LoadOrZero(w + (output * in + k + 32 * p), output < outputs_left && k + 32 * p < end);
      }
    }
  }
}

// dot += W x over 32 k. Which k an instruction takes for its own does not matter as long as both
// operands agree: lane t of four holds k = 8t .. 8t + 7, the first instruction takes half of them.
K_DEVICE void AddProduct(float (&dot)[4], const uint4& low, const uint4& high, const uint4& x) {
  const uint32_t w0[4] = {low.x, high.x, low.y, high.y};
  const uint32_t x0[2] = {x.x, x.y};
  mma_bf16_16816(dot, w0, x0);
  const uint32_t w1[4] = {low.z, high.z, low.w, high.w};
  const uint32_t x1[2] = {x.z, x.w};
  mma_bf16_16816(dot, w1, x1);
}

// A lane's sums of its warp's segment, to shared memory.
template <int kTiles, int kColumns>
K_DEVICE void StorePartials(const float (&sum)[kTiles][kColumns][4], float* partials) {
  using Tile = LinearTile<kTiles, kColumns>;
  const int g = lane_id() / 4, t = lane_id() % 4;
  K_UNROLL
  for (int r = 0; r < kTiles; ++r) {
    K_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      K_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = 8 * c + 2 * t + i % 2, output = 16 * r + g + 8 * (i / 2);
        partials[(warp_id() * Tile::kRows + row) * Tile::kStride + output] = sum[r][c][i];
      }
    }
  }
}

// Where a lane finds row g of each 8 rows of a tile: one behind the other.
struct ConsecutiveRows {
  const bf16* first = nullptr;
  int64_t stride = 0;
  int left = 0;  // rows from the first on
  K_DEVICE bool Has(int column) const { return 8 * column < left; }
  K_DEVICE const bf16* At(int column) const { return first + 8 * column * stride; }
};

// Fills partials, [LinearTile::kPartials] in shared memory; values past the last row or output are
// 0. A barrier is the caller's. `rows` has Has and At of ConsecutiveRows; a.x is not read.
template <int kTiles, int kColumns, typename Rows>
K_DEVICE void SumSegmentsOfRows(const LinearOperands& a, const Rows& rows, int first_output,
                                float* partials) {
  const int g = lane_id() / 4, t = lane_id() % 4;
  const int groups = (a.in + kLinearGroup - 1) / kLinearGroup;
  const int begin = groups * warp_id() / kLinearSegments * kLinearGroup;
  const int segment_end = groups * (warp_id() + 1) / kLinearSegments * kLinearGroup;
  const int end = segment_end < a.in ? segment_end : a.in;
  const bf16* const w = a.w + int64_t{first_output + g} * a.in;
  const int outputs_left = a.out - first_output - g;

  float sum[kTiles][kColumns][4] = {};
  uint4 weights[kTiles][2][2];
  LoadWeights(weights, w, a.in, outputs_left, begin + 8 * t, end);
  // All lanes take the same number of turns.
  for (int k = begin + 8 * t; k < end + 8 * t; k += kLinearGroup) {
    // Under way while this group is multiplied.
    uint4 next[kTiles][2][2];
    LoadWeights(next, w, a.in, outputs_left, k + kLinearGroup, end);
    K_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      const bf16* const x = rows.At(c) + k;
      const bool has = rows.Has(c);
      const uint4 x0 = LoadOrZero(x, has && k < end);
      const uint4 x1 = LoadOrZero(x + 32, has && k + 32 < end);
      K_UNROLL
      for (int r = 0; r < kTiles; ++r) {
        float dot[4] = {};
        AddProduct(dot, weights[r][0][0], weights[r][1][0], x0);
        AddProduct(dot, weights[r][0][1], weights[r][1][1], x1);
        K_UNROLL
        for (int i = 0; i < 4; ++i) sum[r][c][i] = add_rn(sum[r][c][i], dot[i]);
      }
    }
    K_UNROLL
    for (int r = 0; r < kTiles; ++r) {
      K_UNROLL
      for (int half = 0; half < 2; ++half) {
        K_UNROLL
        for (int p = 0; p < 2; ++p) weights[r][half][p] = next[r][half][p];
      }
    }
  }
  StorePartials<kTiles, kColumns>(sum, partials);
}

template <int kTiles, int kColumns>
K_DEVICE void SumSegments(const LinearOperands& a, LinearPosition at, float* partials) {
  const int row = at.first_row + lane_id() / 4;
  const ConsecutiveRows rows = {a.x + row * a.x_stride, a.x_stride, a.rows - row};
  SumSegmentsOfRows<kTiles, kColumns>(a, rows, at.first_output, partials);
}

// One value of y; row and output count from the block's first.
template <int kTiles, int kColumns>
K_DEVICE float SumOfSegments(const float* partials, int row, int output) {
  using Tile = LinearTile<kTiles, kColumns>;
  float sum = partials[row * Tile::kStride + output];
  K_UNROLL
  for (int j = 1; j < kLinearSegments; ++j) {
    sum = add_rn(sum, partials[(j * Tile::kRows + row) * Tile::kStride + output]);
  }
  return sum;
}

}  // namespace tandem::kernels::K_WORLD
