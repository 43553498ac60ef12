// The part of the row operations that differs by instruction set: one row at a time.
//
// Included by instruction-set files: raw pointers only, no inline functions.
#pragma once

#include <stdint.h>

namespace tandem::kernels {

// Formulas and shapes as in ops.h. Rows may have any alignment. A row's bits depend on its values,
// its length and the level alone.
struct RowKernels {
  // y may be x; weight may be null.
  void (*rms_norm)(const float* x, const float* weight, float* y, int dim, float eps);
  void (*norm_add)(const float* a, const float* weight, float* h, int dim, float eps, float scale);
  // One layer of one row: ctx [width] in and out, table [width] bf16.
  void (*ple)(const void* table, const float* norm, float* ctx, int width, float ctx_scale,
              float table_scale, float out_scale, float eps);
  // y may be a.
  void (*gelu_mul)(const float* a, const float* b, float* y, int64_t count);
  void (*softcap)(float* x, int64_t count, float cap);
};

extern const RowKernels kRowKernelsAvx2;
extern const RowKernels kRowKernelsAvx512;

}  // namespace tandem::kernels
