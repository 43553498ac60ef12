// Whole numbers in the lanes of vec_avx2.h: the words that encode_row.inc counts and packs with.
// The twin of vec_int_avx512.h.
//
// Included by files compiled with AVX2 and FMA flags only; everything is static (no copy for
// others).
#pragma once

#include "kernels/cpu/vec_avx2.h"

namespace tandem::kernels::avx2 {

using IntVec = __m256i;  // int32

static inline IntVec ZeroInt() { return _mm256_setzero_si256(); }
static inline IntVec SetInt(int x) { return _mm256_set1_epi32(x); }
static inline IntVec AddInt(IntVec a, IntVec b) { return _mm256_add_epi32(a, b); }
static inline IntVec AndInt(IntVec a, IntVec b) { return _mm256_and_si256(a, b); }
static inline IntVec XorInt(IntVec a, IntVec b) { return _mm256_xor_si256(a, b); }

static inline Vec Abs(Vec x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

// n + 1 where a >= b, n elsewhere.
static inline IntVec CountWhereAtLeast(IntVec n, Vec a, Vec b) {
  return _mm256_sub_epi32(n, _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
}
// -1 where x < 0 (not where it is -0), 0 elsewhere.
static inline IntVec WhereNegative(Vec x) {
  return _mm256_castps_si256(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ));
}
// Nearest, ties to even.
static inline IntVec Round(Vec x) { return _mm256_cvtps_epi32(x); }

// A table of 8 numbers, and table[i] of i in [0, 8).
static inline IntVec LoadTable(const int32_t* table) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(table));
}
static inline IntVec Lookup(IntVec table, IntVec i) {
  return _mm256_permutevar8x32_epi32(table, i);
}

// Each of [-128, 127] to one byte.
static inline void StoreBytes(void* p, IntVec x) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  _mm_storel_epi64(static_cast<__m128i_u*>(p), _mm_packs_epi16(words, words));
}

static inline int SumIntLanes(IntVec x) {
  const __m128i b = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  const __m128i c = _mm_add_epi32(b, _mm_shuffle_epi32(b, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
}

}  // namespace tandem::kernels::avx2
