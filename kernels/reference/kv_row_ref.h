// KV rows of all seven formats as plain loops: the bytes that every level must produce, and the
// values that every level must read (turboquant 2.2 to 2.4).
//
// Shapes    dim is a power of two from 64 to 512; formats without a scale take any multiple of 16.
#pragma once

#include "kernels/kv_row.h"
#include "kernels/types.h"

namespace tandem::kernels {

// y = H (s x), not scaled: sqrt(dim) times the rotation R. f32, one fixed order of additions. y may
// be x.
void RotateReference(const float* x, int dim, float* y);

// x = s (1/sqrt(dim)) H y: the inverse of R. f32, one fixed order of additions. x may be y.
void UnrotateReference(const float* y, int dim, float* x);

// Stores x [dim]. Formats without a scale store what is not finite as it is.
KvRowStatus EncodeRowReference(const float* x, KvFormat format, int dim, KvRow row);

// Integers behind the codes: V of turbo formats, n of kQ8; only formats with a scale.
void DecodeCodesReference(KvFormat format, int dim, KvRow row, int* codes);

// Values in the row's own space, exact: rotated ones, scale * code / 128, of formats with a scale.
void DecodeRowReference(KvFormat format, int dim, KvRow row, float* values);

}  // namespace tandem::kernels
