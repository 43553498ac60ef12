// Three kernels as they are written against kport.h; the emulator's tests run them.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// sums[row] = sum over d of x[row, d], f32.
void RowSums(const float* x, float* sums, int rows, int dim, Stream stream);

// y[c, r] = x[r, c]; any size.
void Transpose(const float* x, float* y, int rows, int columns, Stream stream);

// c[m, n] = sum over k of a[m, k] * b[k, n]; m and n multiples of 64, k of 32.
void MatMul(const bf16* a, const bf16* b, float* c, int m, int n, int k, Stream stream);

}  // namespace tandem::kernels::K_WORLD
