// RMSNorm over rows of f32: into operands, into f32, and onto the residual stream.
//
// Promise   a row's bits depend on that row, the weight and dim alone.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// y[t, :] = x[t, :] * (mean(x[t, :]^2) + eps)^(-1/2) * weight        (gemma4.md 2.1)
// Arrays are 16-byte aligned.
struct NormRowsArgs {
  const float* x = nullptr;       // [rows, dim]
  const float* weight = nullptr;  // [dim], or null for a weight of 1
  bf16* y = nullptr;              // [rows, dim], rounded once: what a product reads; or null
  float* y_f32 = nullptr;         // [rows, dim], or null; may be x
  int rows = 0;
  int dim = 0;
  float eps = 0.0f;
};

// h[t, :] = (h[t, :] + RmsNorm(a[t, :]; weight)) * scale[0], all f32
// Arrays are 16-byte aligned; a and h do not overlap.
struct NormAddArgs {
  const float* a = nullptr;       // [rows, dim]
  const float* weight = nullptr;  // [dim]
  float* h = nullptr;             // [rows, dim], in and out
  int rows = 0;
  int dim = 0;
  float eps = 0.0f;
  const float* scale = nullptr;  // [1], or null for 1
};

// Whether both were built for this width: a multiple of 8 up to 6144. Asked when a model is loaded.
bool NormSupports(int dim);

void NormRows(const NormRowsArgs& args, Stream stream);
void NormAdd(const NormAddArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
