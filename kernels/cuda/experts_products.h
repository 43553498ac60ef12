// Both products of the routed experts, for weights of any kind that has a SumSegmentsOfRows.
//
//   hidden[p,i] = gelu_tanh(gate_e,i . x[t]) * (up_e,i . x[t])     bf16, p the place of pair (t, j)
//   down[t,j,d] = sum_i down_e[d,i] * hidden[p,i]                  f32, e = ids[t,j]
//
// Launch    block = 256: 32 outputs of one tile of 8*columns places, in the order of
//           w_linear_tile.h; the grid as in experts_pass.h. Rows of x are gathered where they are
//           read; places of `hidden` lie one behind the other.
// Not here  traffic and roofline, which experts.cu counts over all of its kernels.
#pragma once

#include "kernels/cuda/experts_pass.h"
#include "kernels/cuda/gelu.h"
#include "kernels/cuda/kport.h"
#include "kernels/cuda/w_linear_codes_tile.h"
#include "kernels/cuda/w_linear_tile.h"

namespace tandem::kernels::K_WORLD {

constexpr int kExpertTiles = 2;  // of 16 outputs: one of gate and one of up
constexpr int kExpertOutputs = 16 * kExpertTiles;

// Blocks on a multiprocessor, for __launch_bounds__; 0 leaves the choice to ptxas, which spills in
// one case only.
template <int kColumns, typename Operands>
constexpr int kExpertMinBlocks = 0;
template <>
constexpr int kExpertMinBlocks<1, CodesOperands<4>> = 3;

// From one expert's weights to the next.
struct ExpertStride {
  int64_t weights;  // values, or bytes of codes
  int64_t scales;
};

K_DEVICE void GoToExpert(LinearOperands& a, ExpertStride stride, int expert) {
  a.w += expert * stride.weights;
}

template <int kBits>
K_DEVICE void GoToExpert(CodesOperands<kBits>& a, ExpertStride stride, int expert) {
  a.codes += expert * stride.weights;
  a.scales += expert * stride.scales;
}

// The rows of x of a tile's pairs (SumSegmentsOfRows).
template <int kColumns>
struct GatheredRows {
  const bf16* x;
  int32_t offset[kColumns];  // in units of eight values; negative: no such row
  K_DEVICE bool Has(int column) const { return offset[column] >= 0; }
  K_DEVICE const bf16* At(int column) const { return x + int64_t{offset[column]} * 8; }
};

// operands are those of expert 0.
template <int kColumns, typename Operands>
__global__ void __launch_bounds__(kLinearThreads, (kExpertMinBlocks<kColumns, Operands>))
    ExpertsGateUpKernel(Operands operands, ExpertStride stride, ExpertPairs pairs, int width,
                        bf16* hidden) {
  using Tile = LinearTile<kExpertTiles, kColumns>;
  K_SHARED(float, partials, Tile::kPartials);
  const auto [tile, first_output] = PositionOfExpertBlock<kExpertOutputs>(pairs);
  if (first_output >= operands.out) return;
  GatheredRows<kColumns> rows;
  rows.x = operands.x;
  K_UNROLL
  for (int c = 0; c < kColumns; ++c) {
    const int place = tile.begin + 8 * c + lane_id() / 4;
    rows.offset[c] = place < tile.end ? OffsetOfPlace(pairs, place, operands.x_stride) : -1;
  }
  GoToExpert(operands, stride, tile.expert);
  SumSegmentsOfRows<kExpertTiles, kColumns>(operands, rows, first_output, partials);
  __syncthreads();

  constexpr int kWidth = kExpertOutputs / 2;
  const int first = first_output / 2;
  for (int e = static_cast<int>(threadIdx.x); e < Tile::kRows * kWidth; e += kLinearThreads) {
    const int row = e / kWidth, i = e % kWidth;
    const int place = tile.begin + row;
    if (place < tile.end && first + i < width) {
      const float gate = SumOfSegments<kExpertTiles, kColumns>(partials, row, i);
      const float up = SumOfSegments<kExpertTiles, kColumns>(partials, row, i + kWidth);
      st(hidden + (int64_t{place} * width + first + i),
         f32_to_bf16_rn(mul_rn(gelu_tanh(gate), up)));
    }
  }
}

// operands.x is `hidden`; down [pairs, operands.out].
template <int kColumns, typename Operands>
__global__ void __launch_bounds__(kLinearThreads, (kExpertMinBlocks<kColumns, Operands>))
    ExpertsDownKernel(Operands operands, ExpertStride stride, ExpertPairs pairs, float* down) {
  using Tile = LinearTile<kExpertTiles, kColumns>;
  K_SHARED(float, partials, Tile::kPartials);
  K_SHARED(int32_t, pair_of_row, Tile::kRows);
  const auto [tile, first_output] = PositionOfExpertBlock<kExpertOutputs>(pairs);
  if (first_output >= operands.out) return;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < tile.end - tile.begin) {
    pair_of_row[thread] = ld_nc(pairs.order + tile.begin + thread);
  }
  const int place = tile.begin + lane_id() / 4;
  const ConsecutiveRows rows = {operands.x + place * operands.x_stride, operands.x_stride,
                                tile.end - place};
  GoToExpert(operands, stride, tile.expert);
  SumSegmentsOfRows<kExpertTiles, kColumns>(operands, rows, first_output, partials);
  __syncthreads();

  for (int e = thread; e < Tile::kRows * kExpertOutputs; e += kLinearThreads) {
    const int row = e / kExpertOutputs, output = e % kExpertOutputs;
    if (tile.begin + row < tile.end && first_output + output < operands.out) {
      st(down + (int64_t{pair_of_row[row]} * operands.out + first_output + output),
         SumOfSegments<kExpertTiles, kColumns>(partials, row, output));
    }
  }
}

template <typename Operands>
void LaunchGateUp(const Operands& operands, const ExpertMatrices& weights, const ExpertsPass& pass,
                  Stream stream) {
  const auto kernel = pass.tile_rows == 8    ? ExpertsGateUpKernel<1, Operands>
                      : pass.tile_rows == 16 ? ExpertsGateUpKernel<2, Operands>
                                             : ExpertsGateUpKernel<4, Operands>;
  launch(kernel, ExpertBlocks(pass, operands.out, kExpertOutputs), kLinearThreads, 0, stream,
         operands, ExpertStride{weights.stride, weights.scale_stride}, pass.pairs, pass.width,
         pass.hidden);
}

template <typename Operands>
void LaunchDown(const Operands& operands, const ExpertMatrices& weights, const ExpertsPass& pass,
                Stream stream) {
  const auto kernel = pass.tile_rows == 8    ? ExpertsDownKernel<1, Operands>
                      : pass.tile_rows == 16 ? ExpertsDownKernel<2, Operands>
                                             : ExpertsDownKernel<4, Operands>;
  launch(kernel, ExpertBlocks(pass, operands.out, kExpertOutputs), kLinearThreads, 0, stream,
         operands, ExpertStride{weights.stride, weights.scale_stride}, pass.pairs, pass.down);
}

}  // namespace tandem::kernels::K_WORLD
