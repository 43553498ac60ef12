// The part of qkv_post that differs by instruction set: one head's norm and rope, one row's bytes.
//
// Included by instruction-set files: raw pointers only; they call no inline function of types.h or
// kv_row.h.
#pragma once

#include "kernels/kv_row.h"
#include "kernels/types.h"

namespace tandem::kernels {

struct QkvPostKernels {
  // y = rope(RmsNorm(x; weight)): weight null is 1, pairs (j, j + dim/2) rotate for j < live. y may
  // be x.
  void (*norm_rope)(const float* x, const float* weight, const float* cos, const float* sin,
                    int live, int dim, float eps, float* y);

  // Stores x [dim], with the bytes and the result of EncodeRowReference (kv_row_ref.h).
  KvRowStatus (*encode)(const float* x, KvFormat format, int dim, KvRow row);
};

extern const QkvPostKernels kQkvPostKernelsAvx2;
extern const QkvPostKernels kQkvPostKernelsAvx512;

}  // namespace tandem::kernels
