// Weights as the CUDA linear layers read them, from row-major bf16, when a model is loaded.
//
// A bf16 matrix stays row-major: one copy serves the linear layers, large products, the embedding
// and the head (kernels.md 4.4). Matrices that share an input are laid one behind the other. Gate
// and up alone are rearranged, for one block to hold both operands of GeGLU.
#pragma once

#include "kernels/types.h"

namespace tandem::kernels {

// Rows of gate and up together: 16 gate, 16 up, 16 gate, ... up to a whole tile.
constexpr int GateUpRows(int width) {
  return static_cast<int>(2 * kTileOutputs * PackedTiles(width));
}

// out [GateUpRows(width), in] from gate and up, [width, in] bf16 each at any alignment; rows past
// `width` are zero.
void InterleaveGateUp(const void* gate, const void* up, int width, int in, Bf16* out);

}  // namespace tandem::kernels
