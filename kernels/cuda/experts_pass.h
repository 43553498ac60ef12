// What the kernels of the routed experts share: which block works on what, and what a pass over
// some rows writes between them.
//
// Launch    of a product: grid = blocks over the outputs * the most tiles of pairs that there can
//           be; blocks behind the last tile that there is end at once. Tiles of one expert are
//           neighbours, so that the second finds the weights in L2.
// Not here  who is grouped how (expert_sort.h); the sum over a row's experts (experts.cu).
#pragma once

#include "kernels/cuda/expert_sort.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/kport.h"
#include "kernels/cuda/w_linear_tile.h"

namespace tandem::kernels::K_WORLD {

// The pairs (row, chosen expert) of a pass, grouped.
struct ExpertPairs {
  const ExpertTile* tiles;
  const int32_t* num_tiles;
  const int32_t* order;  // the pair of each place
  int top_k;
};

// What a block works on; first_output may be behind the last one: nothing.
struct ExpertPosition {
  ExpertTile tile;
  int first_output;
};

template <int kOutputs>
K_DEVICE ExpertPosition PositionOfExpertBlock(const ExpertPairs& pairs) {
  const int block = static_cast<int>(blockIdx.x);
  const int num_tiles = ld_nc(pairs.num_tiles);
  return {ld_nc(pairs.tiles + block % num_tiles), block / num_tiles * kOutputs};
}

// The row of x at a place, in units of eight values.
K_DEVICE int32_t OffsetOfPlace(const ExpertPairs& pairs, int place, int64_t x_stride) {
  return ld_nc(pairs.order + place) / pairs.top_k * static_cast<int32_t>(x_stride / 8);
}

struct ExpertsPass {
  ExpertPairs pairs;
  int tile_rows;   // places of a tile at most
  int most_tiles;  // that there may be
  int width;
  bf16* hidden;  // [pairs, width] by place
  float* down;   // [pairs, dim] by pair
};

inline int ExpertBlocks(const ExpertsPass& pass, int out, int outputs_of_block) {
  return (out + outputs_of_block - 1) / outputs_of_block * pass.most_tiles;
}

// Both products. `operands` has x, x_stride, in and out: x is the rows of the pass in gate_up, else
// `hidden`. Tiles of 8, 16 or 32 places, weights of any format:
void LaunchExpertsGateUp(const LinearOperands& operands, const ExpertMatrices& weights,
                         const ExpertsPass& pass, Stream stream);
void LaunchExpertsDown(const LinearOperands& operands, const ExpertMatrices& weights,
                       const ExpertsPass& pass, Stream stream);
// int8 and int4, called by these:
void LaunchCodedExpertsGateUp(const LinearOperands& operands, const ExpertMatrices& weights,
                              const ExpertsPass& pass, Stream stream);
void LaunchCodedExpertsDown(const LinearOperands& operands, const ExpertMatrices& weights,
                            const ExpertsPass& pass, Stream stream);
// Prompt rows: tiles of 16, 64 or 128 places, weights of bf16.
void LaunchPromptExpertsGateUp(const LinearOperands& operands, const ExpertMatrices& weights,
                               const ExpertsPass& pass, Stream stream);
void LaunchPromptExpertsDown(const LinearOperands& operands, const ExpertMatrices& weights,
                             const ExpertsPass& pass, Stream stream);

}  // namespace tandem::kernels::K_WORLD
