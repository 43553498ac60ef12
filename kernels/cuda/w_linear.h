// Linear layers for few rows (gen class, kernels.md 5.5) with bf16 weights.
//
// Shapes    rows and outputs may be any number, in one launch; made for up to 128 rows. `in` is a
//           multiple of 8, as in every published and golden model, so that a row-major matrix that
//           starts 16-byte aligned has all its rows aligned: no padding of rows or between them.
// Promise   a value's bits depend on its row, its weights and `in` alone: not on the number of
//           rows, the tile or the neighbours.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// y[t, n] = sum_k w[n, k] * x[t, k]
struct WLinearArgs {
  const bf16* x = nullptr;  // [rows, x_stride], `in` values used; 16-byte aligned
  int64_t x_stride = 0;     // a multiple of 8
  const bf16* w = nullptr;  // [out, in] row-major, packed, 16-byte aligned
  // One of the two: [rows, y_stride], `out` values written. Not x.
  bf16* y = nullptr;
  float* y_f32 = nullptr;
  int64_t y_stride = 0;
  int rows = 0;
  int in = 0;
  int out = 0;
};

// y[t, i] = gelu_tanh(gate_i . x[t]) * (up_i . x[t]), both products kept as f32.
struct WLinearGegluArgs {
  const bf16* x = nullptr;  // as above
  int64_t x_stride = 0;
  const bf16* w = nullptr;  // [GateUpRows(width), in] of InterleaveGateUp (w_linear_pack.h)
  bf16* y = nullptr;        // [rows, y_stride], `width` values written; not x
  int64_t y_stride = 0;
  int rows = 0;
  int in = 0;
  int width = 0;
};

// A block makes 16 * tiles outputs of 8 * columns rows.
struct WLinearTile {
  int tiles = 1;
  int columns = 1;
};
// All that were built; GeGLU needs two tiles.
constexpr WLinearTile kWLinearTiles[] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}, {1, 4}, {2, 4}, {1, 8}};

// Whether rows of this length can be multiplied: multiples of 8. Asked when a model is loaded; any
// number of outputs will do.
bool WLinearSupports(int in);

WLinearTile ChooseWLinearTile(int rows, int out, bool geglu);

void WLinear(const WLinearArgs& args, Stream stream);
void WLinearGeglu(const WLinearGegluArgs& args, Stream stream);

// The same with a tile of the caller's, {2, 1} if that was not built: for tests and measurements.
void WLinearWithTile(const WLinearArgs& args, WLinearTile tile, Stream stream);
void WLinearGegluWithTile(const WLinearGegluArgs& args, WLinearTile tile, Stream stream);

}  // namespace tandem::kernels::K_WORLD
