// Both products of the routed experts for prompt rows, bf16 weights.
//
//   hidden and down as in experts_products.h, with the sums of p_linear_tile.h
//
// Launch    a block makes a tile of [places, outputs] of one expert: 16 x 64, 64 x 64 or 128 x 128,
//           as PLinear; the grid as in experts_pass.h. Rows of x are gathered by the copies into
//           shared memory.
// Traffic   as of experts.cu, with these tiles: x and hidden are read per 64 or 128 outputs. To
// find
//           their way 20 B per thread of a launched block, 16 per place and block of gate_up, 32 of
//           down.
// Roofline  1024 rows of 26B-A4B are 97 GFLOP over 1.52 GB of weights: about as long for memory
//           (354 us at 4.3 TB/s) as for mma.sync at a third of its rate, tiles that are not full
//           included.
// Truth     ExpertsReference (kernels/reference/linear_ref.h); tests/emu/experts_test.cc.
#include "kernels/cuda/experts_pass.h"
#include "kernels/cuda/gelu.h"
#include "kernels/cuda/p_linear_tile.h"

namespace tandem::kernels::K_WORLD {

// Copies the rows of x of a tile's pairs.
template <typename Tile>
struct GatheringCopier : PromptCopier<Tile> {
  using Base = PromptCopier<Tile>;
  static constexpr int kPasses = Tile::kRows / Base::kRowsPerPass;

  K_DEVICE GatheringCopier(const PromptOperands& a, PromptPosition at, const ExpertPairs& pairs)
      : Base(a, at) {
    const int thread = static_cast<int>(threadIdx.x);
    this->x = a.x + thread % kPromptChunks * kPromptChunk;
    K_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) {
      const int place = at.first_row + thread / kPromptChunks + pass * Base::kRowsPerPass;
      offset[pass] = place < a.rows ? OffsetOfPlace(pairs, place, a.x_stride) : -1;
    }
  }

  K_DEVICE void Start(int k, bf16* stage) const {
    const bool inside = k < this->values_left;
    K_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) {
      cp_async_16(stage + this->to + pass * Base::kRowsPerPass * kPromptGroup,
                  this->x + int64_t{offset[pass]} * 8 + k, inside && offset[pass] >= 0);
    }
    this->StartOutputs(k, inside, stage + Tile::kRows * kPromptGroup);
  }

  int32_t offset[kPasses];  // in units of eight values; negative: no such row
};

// operands are those of expert 0.
template <int kRows, int kOutputs>
__global__ void __launch_bounds__(PromptTile<kRows, kOutputs>::kThreads,
                                  PromptTile<kRows, kOutputs>::kBlocks)
    ExpertsPromptGateUpKernel(PromptOperands operands, int64_t stride, ExpertPairs pairs, int width,
                              bf16* hidden) {
  using Tile = PromptTile<kRows, kOutputs>;
  K_DYN_SMEM(bf16, shared);
  const auto [tile, first_output] = PositionOfExpertBlock<kOutputs>(pairs);
  if (first_output >= operands.out) return;
  operands.w += tile.expert * stride;
  operands.rows = tile.end;
  PromptSums<Tile> sum = {};
  SumPromptGroups<Tile>(GatheringCopier<Tile>(operands, {tile.begin, first_output}, pairs),
                        operands.in, shared, sum);

  const PromptPosition part = PositionInPromptTile<Tile>();
  const int first_place = tile.begin + part.first_row + lane_id() / 4;
  const int first = (first_output + part.first_output) / 2 + lane_id() % 4 * 2;
  K_UNROLL
  for (int i = 0; i < Tile::kRowTiles; ++i) {
    K_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int place = first_place + 16 * i + 8 * half;
      bf16* const to = hidden + int64_t{place} * width;
      // Of every four output tiles two are gate rows and two the up rows that belong to them.
      static_assert(Tile::kOutputTiles % 4 == 0);
      K_UNROLL
      for (int four = 0; four < Tile::kOutputTiles; four += 4) {
        K_UNROLL
        for (int j = four; j < four + 2; ++j) {
          const int n = first + 4 * four + 8 * (j - four);
          Vec<bf16, 2> y;
          K_UNROLL
          for (int e = 0; e < 2; ++e) {
            y[e] = f32_to_bf16_rn(
                mul_rn(gelu_tanh(sum[i][j][2 * half + e]), sum[i][j + 2][2 * half + e]));
          }
          if (place < tile.end && n < width) st(reinterpret_cast<Vec<bf16, 2>*>(to + n), y);
        }
      }
    }
  }
}

// operands.x is `hidden`; down [pairs, operands.out].
template <int kRows, int kOutputs>
__global__ void __launch_bounds__(PromptTile<kRows, kOutputs>::kThreads,
                                  PromptTile<kRows, kOutputs>::kBlocks)
    ExpertsPromptDownKernel(PromptOperands operands, int64_t stride, ExpertPairs pairs,
                            float* down) {
  using Tile = PromptTile<kRows, kOutputs>;
  K_DYN_SMEM(bf16, shared);
  const auto [tile, first_output] = PositionOfExpertBlock<kOutputs>(pairs);
  if (first_output >= operands.out) return;
  operands.w += tile.expert * stride;
  operands.rows = tile.end;
  PromptSums<Tile> sum = {};
  SumPromptGroups<Tile>(operands, {tile.begin, first_output}, shared, sum);

  const PromptPosition part = PositionInPromptTile<Tile>();
  const int first_place = tile.begin + part.first_row + lane_id() / 4;
  const int first = first_output + part.first_output + lane_id() % 4 * 2;
  K_UNROLL
  for (int i = 0; i < Tile::kRowTiles; ++i) {
    K_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int place = first_place + 16 * i + 8 * half;
      if (place < tile.end) {
        float* const to = down + int64_t{ld_nc(pairs.order + place)} * operands.out;
        K_UNROLL
        for (int j = 0; j < Tile::kOutputTiles; ++j) {
          const int n = first + 8 * j;
          const Vec<float, 2> y = {sum[i][j][2 * half], sum[i][j][2 * half + 1]};
          if (n < operands.out) st(reinterpret_cast<Vec<float, 2>*>(to + n), y);
        }
      }
    }
  }
}

static PromptOperands PromptOf(const LinearOperands& operands, const ExpertMatrices& weights) {
  return {.x = operands.x,
          .x_stride = operands.x_stride,
          .w = weights.w,
          .in = operands.in,
          .out = operands.out};
}

template <int kRows, int kOutputs>
static void LaunchGateUp(const LinearOperands& operands, const ExpertMatrices& weights,
                         const ExpertsPass& pass, Stream stream) {
  using Tile = PromptTile<kRows, kOutputs>;
  launch(ExpertsPromptGateUpKernel<kRows, kOutputs>, ExpertBlocks(pass, operands.out, kOutputs),
         Tile::kThreads, Tile::kSharedBytes, stream, PromptOf(operands, weights), weights.stride,
         pass.pairs, pass.width, pass.hidden);
}

template <int kRows, int kOutputs>
static void LaunchDown(const LinearOperands& operands, const ExpertMatrices& weights,
                       const ExpertsPass& pass, Stream stream) {
  using Tile = PromptTile<kRows, kOutputs>;
  launch(ExpertsPromptDownKernel<kRows, kOutputs>, ExpertBlocks(pass, operands.out, kOutputs),
         Tile::kThreads, Tile::kSharedBytes, stream, PromptOf(operands, weights), weights.stride,
         pass.pairs, pass.down);
}

void LaunchPromptExpertsGateUp(const LinearOperands& operands, const ExpertMatrices& weights,
                               const ExpertsPass& pass, Stream stream) {
  const auto launch_tile = pass.tile_rows == 16   ? LaunchGateUp<16, 64>
                           : pass.tile_rows == 64 ? LaunchGateUp<64, 64>
                                                  : LaunchGateUp<128, 128>;
  launch_tile(operands, weights, pass, stream);
}

void LaunchPromptExpertsDown(const LinearOperands& operands, const ExpertMatrices& weights,
                             const ExpertsPass& pass, Stream stream) {
  const auto launch_tile = pass.tile_rows == 16   ? LaunchDown<16, 64>
                           : pass.tile_rows == 64 ? LaunchDown<64, 64>
                                                  : LaunchDown<128, 128>;
  launch_tile(operands, weights, pass, stream);
}

}  // namespace tandem::kernels::K_WORLD
