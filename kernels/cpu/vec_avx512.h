// The vector words that the .inc files here are written in, 16 floats wide. The twin of
// vec_avx2.h.
//
// Included by files compiled with AVX-512 flags only; everything is static (no copy for others).
//
// Order     SumLanes and SumEach add in one fixed tree, the same for every lane position and every
//           argument position, so a sum never depends on what was summed beside it.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace tandem::kernels::avx512 {

using Vec = __m512;
constexpr int kLanes = 16;

static inline Vec Zero() { return _mm512_setzero_ps(); }
static inline Vec Set1(float x) { return _mm512_set1_ps(x); }
static inline Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
static inline Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
static inline Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
static inline Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
static inline Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
static inline Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }    // a b + c
static inline Vec Fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b

// The low n lanes, 0 <= n <= 16.
static inline __mmask16 First(int n) { return static_cast<__mmask16>((1u << n) - 1); }

static inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
static inline void Store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
// The first n values; the other lanes are 0 (untouched when storing).
static inline Vec LoadFirst(const float* p, int n) { return _mm512_maskz_loadu_ps(First(n), p); }
static inline void StoreFirst(float* p, int n, Vec x) { _mm512_mask_storeu_ps(p, First(n), x); }

static inline Vec WidenBf16(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
// 16 bf16 at any address.
static inline Vec LoadBf16(const void* p) {
  return WidenBf16(_mm256_loadu_si256(static_cast<const __m256i_u*>(p)));
}
static inline Vec LoadBf16First(const void* p, int n) {
  return WidenBf16(_mm256_maskz_loadu_epi16(First(n), p));
}
// Nearest even, NaN stays NaN: the bits of ToBf16 (types.h).
static inline void StoreBf16(void* p, Vec x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i chosen = _mm512_mask_blend_epi32(nan, rounded, quiet);
  _mm256_storeu_si256(static_cast<__m256i_u*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16)));
}

// Nearest even, subnormals kept: the bits of ToF16 (types.h).
static inline void StoreF16(void* p, Vec x) {
  _mm256_storeu_si256(static_cast<__m256i_u*>(p),
                      _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// Lane i of x where begin <= i < end, `other` elsewhere.
static inline Vec KeepRange(Vec x, int begin, int end, Vec other) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __mmask16 keep = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(begin)) &
                         _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(end));
  return _mm512_mask_blend_ps(keep, other, x);
}

// -x in the lanes whose bit is set.
static inline Vec NegateWhere(Vec x, uint32_t bits) {
  return _mm512_mask_xor_ps(x, static_cast<__mmask16>(bits), x, _mm512_set1_ps(-0.0f));
}

// Walsh-Hadamard transform of the 16 lanes, Sylvester order: stages of distance 1, 2, 4, 8, each
// (a, b) -> (a + b, a - b).
static inline Vec HadamardLanes(Vec x) {
  x = _mm512_add_ps(_mm512_permute_ps(x, 0xb1), NegateWhere(x, 0xaaaa));
  x = _mm512_add_ps(_mm512_permute_ps(x, 0x4e), NegateWhere(x, 0xcccc));
  x = _mm512_add_ps(_mm512_shuffle_f32x4(x, x, 0xb1), NegateWhere(x, 0xf0f0));
  return _mm512_add_ps(_mm512_shuffle_f32x4(x, x, 0x4e), NegateWhere(x, 0xff00));
}

static inline float FirstLane(Vec x) { return _mm512_cvtss_f32(x); }

static inline float SumLanes(Vec x) {
  const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float MaxLanes(Vec x) {
  const __m256 a = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

// Lane i of the result is the sum of the lanes of x[i].
static inline Vec SumEach(const Vec* x) {
  __m512d pair[8];  // each 128-bit part: two half sums of x[2i], x[2i+1] in turn
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    pair[i] = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]),
                                             _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1])));
  }
  Vec quad[4];  // each 128-bit part: one partial sum of each of x[4i .. 4i+3]
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    quad[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(pair[2 * i], pair[2 * i + 1])),
                            _mm512_castpd_ps(_mm512_unpackhi_pd(pair[2 * i], pair[2 * i + 1])));
  }
  const Vec a = _mm512_add_ps(_mm512_shuffle_f32x4(quad[0], quad[1], _MM_SHUFFLE(1, 0, 1, 0)),
                              _mm512_shuffle_f32x4(quad[0], quad[1], _MM_SHUFFLE(3, 2, 3, 2)));
  const Vec b = _mm512_add_ps(_mm512_shuffle_f32x4(quad[2], quad[3], _MM_SHUFFLE(1, 0, 1, 0)),
                              _mm512_shuffle_f32x4(quad[2], quad[3], _MM_SHUFFLE(3, 2, 3, 2)));
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, _MM_SHUFFLE(2, 0, 2, 0)),
                       _mm512_shuffle_f32x4(a, b, _MM_SHUFFLE(3, 1, 3, 1)));
}

}  // namespace tandem::kernels::avx512
