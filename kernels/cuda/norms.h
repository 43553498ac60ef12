// RMSNorm over rows of bf16.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// y[t, :] = x[t, :] * (mean(x[t, :]^2) + eps)^(-1/2) * weight        (gemma4.md 2.1)
struct NormRowsArgs {
  const bf16* x = nullptr;       // [rows, dim], 16-byte aligned
  const bf16* weight = nullptr;  // [dim], likewise, or null for a weight of 1
  bf16* y = nullptr;             // [rows, dim], likewise; may be x
  int rows = 0;
  int dim = 0;
  float eps = 0.0f;
};

// Whether a kernel was built for this width: a multiple of 8 up to 6144. Asked when a model is
// loaded.
bool NormRowsSupports(int dim);

void NormRows(const NormRowsArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
