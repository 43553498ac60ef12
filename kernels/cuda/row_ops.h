// Row by row, value by value: embeddings, per-layer inputs, gelu, soft-cap, rounding to operands.
//
// Promise   a value's bits depend on its inputs alone (of Ple: on its row's layer).
// Shapes    arrays are 16-byte aligned; dims and strides count elements of the array's own type and
//           are multiples of 8. rows * dim / 8 < 2^31.
// Not here  norms of whole rows (norms.h), cos and sin (rope_table.h), rows moved as they are
//           (move_rows.h).
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// out[t, :] = table[ids[t], :] * scale                               (gemma4.md 2.2)
struct EmbedArgs {
  const bf16* table = nullptr;   // [vocab, dim] row-major
  const int32_t* ids = nullptr;  // [rows], each in [0, vocab)
  float scale = 1.0f;
  // One of the two: [rows, out_stride], `dim` values written.
  float* out_f32 = nullptr;
  bf16* out = nullptr;  // rounded once
  int64_t out_stride = 0;
  int rows = 0;
  int dim = 0;
};

// Per-layer inputs (gemma4.md 2.3), in place on the context projection:
//   ctx[t,l,:] = (RmsNorm(ctx[t,l,:] * ctx_scale; norm)
//                 + rows_of_table[t,l,:] * table_scale) * out_scale
struct PleArgs {
  const bf16* rows_of_table = nullptr;  // [rows, layers * width]: the tokens' rows of the table
  float* ctx = nullptr;                 // [rows, layers * width], in and out
  const float* norm = nullptr;          // [width]
  int rows = 0;
  int layers = 0;
  int width = 0;
  float ctx_scale = 1.0f;
  float table_scale = 1.0f;
  float out_scale = 1.0f;
  float eps = 0.0f;
};

// Whether Ple was built for this width: a multiple of 8 up to 256. Asked when a model is loaded.
bool PleSupports(int width);

// y[t, :] = gelu_tanh(a[t, :]) * b[t, :], rounded once to an operand
struct GeluMulArgs {
  const float* a = nullptr;  // [rows, a_stride]
  int64_t a_stride = 0;
  const float* b = nullptr;  // [rows, b_stride]
  int64_t b_stride = 0;
  bf16* y = nullptr;  // [rows, y_stride], `dim` values written; overlaps neither a nor b
  int64_t y_stride = 0;
  int rows = 0;
  int dim = 0;
};

// y[t, :] = x[t, :] rounded to bf16: the operand that a product makes of an f32 row.
struct RoundRowsArgs {
  const float* x = nullptr;  // [rows, x_stride]
  int64_t x_stride = 0;
  bf16* y = nullptr;  // [rows, y_stride], `dim` values written; does not overlap x
  int64_t y_stride = 0;
  int rows = 0;
  int dim = 0;
};

// x = cap * tanh(x / cap), in place, the tanh accurate               (gemma4.md 2.8)
struct SoftcapArgs {
  float* x = nullptr;  // [count]
  int64_t count = 0;   // any
  float cap = 0.0f;    // above 0
};

void Embed(const EmbedArgs& args, Stream stream);
void Ple(const PleArgs& args, Stream stream);
void GeluMul(const GeluMulArgs& args, Stream stream);
void RoundRows(const RoundRowsArgs& args, Stream stream);
void Softcap(const SoftcapArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
