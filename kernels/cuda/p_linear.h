// Linear layers for prompt rows (prompt class, kernels.md 5.6) with bf16 weights.
//
// Promise   a value's bits depend on its row, its weights and `in` alone: not on the number of
//           rows, the tile or the neighbours. They are not those of WLinear.
// Not here  cuBLASLt in its place (prompt_gemm.h); weights of other formats (dequant_weights.h).
#pragma once

#include "kernels/cuda/w_linear.h"

namespace tandem::kernels::K_WORLD {

// A block makes `outputs` outputs of `rows` rows.
struct PLinearTile {
  int rows = 16;
  int outputs = 64;
};
// All that were built.
constexpr PLinearTile kPLinearTiles[] = {{16, 64}, {32, 64}, {64, 64}, {128, 128}};

// Whether rows of this length can be multiplied: multiples of 8. Asked when a model is loaded; any
// number of rows and outputs will do.
bool PLinearSupports(int in);

PLinearTile ChoosePLinearTile(int rows, int out);

void PLinear(const WLinearArgs& args, Stream stream);
void PLinearGeglu(const WLinearGegluArgs& args, Stream stream);

// The same with a tile of the caller's, {16, 64} if that was not built: for tests and measurements.
void PLinearWithTile(const WLinearArgs& args, PLinearTile tile, Stream stream);
void PLinearGegluWithTile(const WLinearGegluArgs& args, PLinearTile tile, Stream stream);

}  // namespace tandem::kernels::K_WORLD
