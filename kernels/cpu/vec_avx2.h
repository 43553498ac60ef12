// The vector words that the .inc files here are written in, 8 floats wide. The twin of
// vec_avx512.h.
//
// Included by files compiled with AVX2 and FMA flags only; everything is static (no copy for
// others).
//
// Order     SumLanes and SumEach add in one fixed tree, the same for every lane position and every
//           argument position, so a sum never depends on what was summed beside it.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace tandem::kernels::avx2 {

using Vec = __m256;
constexpr int kLanes = 8;

static inline Vec Zero() { return _mm256_setzero_ps(); }
static inline Vec Set1(float x) { return _mm256_set1_ps(x); }
static inline Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
static inline Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
static inline Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
static inline Vec Div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
static inline Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
static inline Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }    // a b + c
static inline Vec Fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a b

// All bits of lane i set where begin <= i < end.
static inline __m256i Lanes(int begin, int end) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(begin), lane),
                             _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
}

static inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
static inline void Store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
// The first n values, 0 <= n <= 8; the other lanes are 0 (untouched when storing).
static inline Vec LoadFirst(const float* p, int n) { return _mm256_maskload_ps(p, Lanes(0, n)); }
static inline void StoreFirst(float* p, int n, Vec x) { _mm256_maskstore_ps(p, Lanes(0, n), x); }

// 8 bf16 at any address.
static inline Vec LoadBf16(const void* p) {
  const __m128i bits = _mm_loadu_si128(static_cast<const __m128i_u*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
static inline Vec LoadBf16First(const void* p, int n) {
  uint16_t bits[kLanes] = {};
  memcpy(bits, p, static_cast<size_t>(n) * 2);
  return LoadBf16(bits);
}
// Nearest even, NaN stays NaN: the bits of ToBf16 (types.h).
static inline void StoreBf16(void* p, Vec x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i chosen = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  _mm_storeu_si128(
      static_cast<__m128i_u*>(p),
      _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1)));
}

// Nearest even, subnormals kept: the bits of ToF16 (types.h).
static inline void StoreF16(void* p, Vec x) {
  _mm_storeu_si128(static_cast<__m128i_u*>(p),
                   _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// Lane i of x where begin <= i < end, `other` elsewhere.
static inline Vec KeepRange(Vec x, int begin, int end, Vec other) {
  return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(Lanes(begin, end)));
}

// -x in the lanes whose bit is set.
static inline Vec NegateWhere(Vec x, uint32_t bits) {
  const __m256i lane_bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane_bit);
  const __m256i sign = _mm256_slli_epi32(_mm256_cmpeq_epi32(set, lane_bit), 31);
  return _mm256_xor_ps(x, _mm256_castsi256_ps(sign));
}

// Walsh-Hadamard transform of the 8 lanes, Sylvester order: stages of distance 1, 2, 4, each
// (a, b) -> (a + b, a - b).
static inline Vec HadamardLanes(Vec x) {
  x = _mm256_add_ps(_mm256_permute_ps(x, 0xb1), NegateWhere(x, 0xaa));
  x = _mm256_add_ps(_mm256_permute_ps(x, 0x4e), NegateWhere(x, 0xcc));
  return _mm256_add_ps(_mm256_permute2f128_ps(x, x, 0x01), NegateWhere(x, 0xf0));
}

static inline float FirstLane(Vec x) { return _mm256_cvtss_f32(x); }

static inline float SumLanes(Vec x) {
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float MaxLanes(Vec x) {
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

// Lane i of the result is the sum of the lanes of x[i].
static inline Vec SumEach(const Vec* x) {
  __m256d pair[4];  // each 128-bit part: two half sums of x[2i], x[2i+1] in turn
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    pair[i] = _mm256_castps_pd(_mm256_add_ps(_mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]),
                                             _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1])));
  }
  Vec quad[2];  // each 128-bit part: one partial sum of each of x[4i .. 4i+3]
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    quad[i] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(pair[2 * i], pair[2 * i + 1])),
                            _mm256_castpd_ps(_mm256_unpackhi_pd(pair[2 * i], pair[2 * i + 1])));
  }
  return _mm256_add_ps(_mm256_permute2f128_ps(quad[0], quad[1], 0x20),
                       _mm256_permute2f128_ps(quad[0], quad[1], 0x31));
}

}  // namespace tandem::kernels::avx2
