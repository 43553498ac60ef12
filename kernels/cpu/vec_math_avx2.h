// exp, tanh and gelu_tanh on 8 floats. The twin of vec_math_avx512.h: same formulas, same error.
//
// Included by files compiled with AVX2 and FMA flags only; everything is static (no copy for
// others).
//
// Maths     2^z by z = n + f, |f| <= 1/2, and a polynomial for 2^f; the argument is carried as a
//           sum hi + lo, so the error does not grow with |z|.
// Error     relative, against double, where the result is a normal float: Exp 1e-7, Tanh 1.6e-7,
//           GeluTanh 1.8e-7 (results under 1e-37 may become 0). NaN stays NaN; Exp(-inf) is 0.
// Truth     std::exp, std::tanh, GeluTanhReference; tests/kernels/linear_test.cc for the last.
#pragma once

#include <immintrin.h>

namespace tandem::kernels::avx2 {

// `x` clamped to [low, high]; NaN passes, because min and max return their second operand then.
static inline __m256 Clamp(__m256 x, float low, float high) {
  return _mm256_max_ps(_mm256_set1_ps(low), _mm256_min_ps(_mm256_set1_ps(high), x));
}

// 2^(hi + lo) for |hi| <= 200 and |lo| far below 1/2.
static inline __m256 Exp2(__m256 hi, __m256 lo) {
  const __m256 n = _mm256_round_ps(hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 f = _mm256_add_ps(_mm256_sub_ps(hi, n), lo);
  // (2^f - 1) / f, interpolated at Chebyshev nodes of [-1/2, 1/2]; relative error of 2^f 9.2e-9.
  __m256 p = _mm256_set1_ps(0x1.44138ap-13f);
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.5f0890p-10f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.3b2a54p-7f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.c6af6cp-5f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.ebfbe0p-3f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.62e430p-1f));
  const __m256 r = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
  // r * 2^n in two exact powers, so that only the last product rounds, subnormal or not.
  const __m256i exponent = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(exponent, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i high =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(exponent, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(r, _mm256_castsi256_ps(low)), _mm256_castsi256_ps(high));
}

static inline __m256 Exp(__m256 x) {
  const __m256 log2e = _mm256_set1_ps(0x1.715476p+0f);
  const __m256 log2e_rest = _mm256_set1_ps(0x1.4ae0c0p-26f);
  const __m256 c = Clamp(x, -110.0f, 100.0f);  // beyond: 0 and infinity
  const __m256 hi = _mm256_mul_ps(c, log2e);
  return Exp2(hi, _mm256_fmadd_ps(c, log2e_rest, _mm256_fmsub_ps(c, log2e, hi)));
}

static inline __m256 Tanh(__m256 x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  const __m256 t = _mm256_andnot_ps(sign, x);
  // t < 0.625: t + t^3 P(t^2), P interpolated at Chebyshev nodes; relative error 4.2e-9.
  const __m256 s = _mm256_mul_ps(t, t);
  __m256 p = _mm256_set1_ps(0x1.2c83c0p-9f);
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(-0x1.116a16p-7f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(0x1.64a976p-6f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(-0x1.ba08c4p-5f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(0x1.1110eap-3f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(-0x1.555556p-2f));
  const __m256 small = _mm256_fmadd_ps(_mm256_mul_ps(t, s), p, t);
  // Otherwise 1 - 2 / (e^(2t) + 1); 1 from t = 9.02 on.
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 e = Exp(_mm256_add_ps(t, t));
  const __m256 large =
      _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_add_ps(e, one)));
  const __m256 is_small = _mm256_cmp_ps(t, _mm256_set1_ps(0.625f), _CMP_LT_OQ);
  return _mm256_or_ps(_mm256_blendv_ps(large, small, is_small), _mm256_and_ps(sign, x));
}

// x/2 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), written as x / (1 + 2^-z) with
// z = x (a + b x^2), which keeps its relative precision where 1 + tanh cancels.
static inline __m256 GeluTanh(__m256 x) {
  const __m256 a = _mm256_set1_ps(0x1.26aec2p+1f);  // 2 sqrt(2/pi) / ln 2
  const __m256 a_rest = _mm256_set1_ps(0x1.bce75ap-27f);
  const __m256 b = _mm256_set1_ps(0x1.a5a7d0p-4f);  // 0.044715 a
  const __m256 b_rest = _mm256_set1_ps(-0x1.151aaep-29f);
  const __m256 c = Clamp(x, -11.0f, 11.0f);  // beyond: -0 and x
  // square + square_rest = c^2; sum + sum_rest = a + b c^2; z + z_rest = their product with c.
  const __m256 square = _mm256_mul_ps(c, c);
  const __m256 square_rest = _mm256_fmsub_ps(c, c, square);
  const __m256 term = _mm256_mul_ps(b, square);
  __m256 term_rest = _mm256_fmsub_ps(b, square, term);
  term_rest = _mm256_fmadd_ps(b, square_rest, term_rest);
  term_rest = _mm256_fmadd_ps(b_rest, square, term_rest);
  const __m256 sum = _mm256_add_ps(a, term);
  const __m256 term_seen = _mm256_sub_ps(sum, a);
  const __m256 sum_lost = _mm256_add_ps(_mm256_sub_ps(a, _mm256_sub_ps(sum, term_seen)),
                                        _mm256_sub_ps(term, term_seen));
  const __m256 sum_rest = _mm256_add_ps(_mm256_add_ps(sum_lost, a_rest), term_rest);
  const __m256 minus_c = _mm256_xor_ps(c, _mm256_set1_ps(-0.0f));
  const __m256 z = _mm256_mul_ps(minus_c, sum);
  const __m256 z_rest = _mm256_fmadd_ps(minus_c, sum_rest, _mm256_fmsub_ps(minus_c, sum, z));
  return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), Exp2(z, z_rest)));
}

}  // namespace tandem::kernels::avx2
