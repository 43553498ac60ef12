// Kernels that call every wrapper of kport.h once, one warp each; every lane writes what it got.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

constexpr int kNumFloatOps = 20;
constexpr int kNumBitOps = 12;
constexpr int kNumExchanges = 16;

// y[op, lane] of x[lane], the operations in the order of wrappers_test.cc.
void FloatOps(const float* x, float* y, Stream stream);
void BitOps(const uint32_t* x, uint32_t* y, Stream stream);
void Exchanges(const int32_t* x, int32_t* y, Stream stream);

// The ldmatrix forms: y[form, register, lane] of a tile stack x of 4 x 8 rows of 8 values; forms
// x1, x1_trans, x2, x2_trans, x4, x4_trans, and movmatrix of what x1 gave, 4 registers each.
void MatrixLoads(const uint16_t* x, uint32_t* y, Stream stream);

// d[16, 8] = a[16, 16] b[16, 8] (row-major) by one instruction.
void MmaBf16(const bf16* a, const bf16* b, float* d, Stream stream);
void MmaF16(const f16* a, const f16* b, float* d, Stream stream);

// y[0, 64): x[0, 64) by copies of 16, 8 and 4 bytes; y[64, 96): zeros by copies without a source.
void AsyncCopies(const uint32_t* x, uint32_t* y, Stream stream);

// counters[0] and wide[0] += 1 by each of blocks * 32 threads; the last block to come writes how
// many came before it to last[0]. counters [2] and wide [1] start at 0.
void Counting(int blocks, int32_t* counters, uint64_t* wide, int32_t* last, Stream stream);

}  // namespace tandem::kernels::K_WORLD
