// Linear layers for few rows (gen class, kernels.md 5.5) with int8 or int4 weights.
//
// Promise   a value's bits depend on its row, its weights and `in` alone: not on the number of
//           rows, the tile or the neighbours.
#pragma once

#include "kernels/cuda/kport.h"
#include "kernels/cuda/w_codes_pack.h"
#include "kernels/cuda/w_linear.h"

namespace tandem::kernels::K_WORLD {

// y[t, n] = sum_k scale[n, k / 32] * code[n, k] * x[t, k]
struct WLinearCodesArgs {
  const bf16* x = nullptr;                    // [rows, x_stride], `in` values used; 16-byte aligned
  int64_t x_stride = 0;                       // a multiple of 8
  WeightFormat format = WeightFormat::kInt8;  // or kInt4
  const std::byte* codes = nullptr;           // [out, in] of PackCodeRow (w_codes_pack.h), 16-byte
  const f16* scales = nullptr;                // aligned both
  // One of the two: [rows, y_stride], `out` values written. Not x.
  bf16* y = nullptr;
  float* y_f32 = nullptr;
  int64_t y_stride = 0;
  int rows = 0;  // any number
  int in = 0;    // WLinearSupports it
  int out = 0;   // any number
};

// y[t, i] = gelu_tanh(gate_i . x[t]) * (up_i . x[t]), both products kept as f32.
struct WLinearCodesGegluArgs {
  const bf16* x = nullptr;  // as above
  int64_t x_stride = 0;
  WeightFormat format = WeightFormat::kInt8;
  // [GateUpRows(width), in]: 16 rows of gate, 16 of up, ... (w_linear_pack.h)
  const std::byte* codes = nullptr;
  const f16* scales = nullptr;
  bf16* y = nullptr;  // [rows, y_stride], `width` values written; not x
  int64_t y_stride = 0;
  int rows = 0;
  int in = 0;
  int width = 0;
};

// All tiles that were built; GeGLU needs two tiles.
constexpr WLinearTile kWLinearCodesTiles[] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}, {1, 4}};

WLinearTile ChooseWLinearCodesTile(int rows, int out, bool geglu);

void WLinearCodes(const WLinearCodesArgs& args, Stream stream);
void WLinearCodesGeglu(const WLinearCodesGegluArgs& args, Stream stream);

// The same with a tile of the caller's, {2, 1} if that was not built: for tests and measurements.
void WLinearCodesWithTile(const WLinearCodesArgs& args, WLinearTile tile, Stream stream);
void WLinearCodesGegluWithTile(const WLinearCodesGegluArgs& args, WLinearTile tile, Stream stream);

}  // namespace tandem::kernels::K_WORLD
