// Whole numbers in the lanes of vec_avx512.h: the words that encode_row.inc counts and packs with.
// The twin of vec_int_avx2.h.
//
// Included by files compiled with AVX-512 flags only; everything is static (no copy for others).
#pragma once

#include "kernels/cpu/vec_avx512.h"

namespace tandem::kernels::avx512 {

using IntVec = __m512i;  // int32

static inline IntVec ZeroInt() { return _mm512_setzero_si512(); }
static inline IntVec SetInt(int x) { return _mm512_set1_epi32(x); }
static inline IntVec AddInt(IntVec a, IntVec b) { return _mm512_add_epi32(a, b); }
static inline IntVec AndInt(IntVec a, IntVec b) { return _mm512_and_si512(a, b); }
static inline IntVec XorInt(IntVec a, IntVec b) { return _mm512_xor_si512(a, b); }

static inline Vec Abs(Vec x) { return _mm512_abs_ps(x); }

// n + 1 where a >= b, n elsewhere.
static inline IntVec CountWhereAtLeast(IntVec n, Vec a, Vec b) {
  return _mm512_mask_add_epi32(n, _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), n, _mm512_set1_epi32(1));
}
// -1 where x < 0 (not where it is -0), 0 elsewhere.
static inline IntVec WhereNegative(Vec x) {
  return _mm512_movm_epi32(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ));
}
// Nearest, ties to even.
static inline IntVec Round(Vec x) { return _mm512_cvtps_epi32(x); }

// A table of 8 numbers, and table[i] of i in [0, 8).
static inline IntVec LoadTable(const int32_t* table) {
  return _mm512_broadcast_i32x8(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(table)));
}
static inline IntVec Lookup(IntVec table, IntVec i) { return _mm512_permutexvar_epi32(i, table); }

// Each of [-128, 127] to one byte.
static inline void StoreBytes(void* p, IntVec x) {
  _mm_storeu_si128(static_cast<__m128i_u*>(p), _mm512_cvtepi32_epi8(x));
}

static inline int SumIntLanes(IntVec x) {
  const __m256i a = _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti32x8_epi32(x, 1));
  const __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  const __m128i c = _mm_add_epi32(b, _mm_shuffle_epi32(b, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
}

}  // namespace tandem::kernels::avx512
