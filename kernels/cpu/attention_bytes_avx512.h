// Stored values as floats, and the words of attention_codes.inc and attention_weights.inc, 64 bytes
// wide. The twin of attention_bytes_avx2.h.
//
// Included by files compiled with AVX-512 flags only; everything is static (no copy for others).
// Unpack and LookUpCodes work inside each 16 bytes.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/cpu/vec_avx512.h"
#include "kernels/types.h"

namespace tandem::kernels::avx512 {

using Bytes = __m512i;
constexpr int kBytes = 64;

static inline Bytes LoadCodes(const void* p) { return _mm512_loadu_si512(p); }
static inline void StoreCodes(void* p, Bytes x) { _mm512_storeu_si512(p, x); }
// 16 bytes in each 16 bytes.
static inline Bytes RepeatCodes(const void* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i_u*>(p)));
}

static inline Bytes LowNibbles(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi8(0x0f)); }
static inline Bytes HighNibbles(Bytes x) { return LowNibbles(_mm512_srli_epi16(x, 4)); }
// The nibbles of the 32 bytes at p, low ones first, each in a byte.
static inline Bytes SpreadNibbles(const void* p) {
  const Bytes x = _mm512_cvtepu8_epi16(_mm256_loadu_si256(static_cast<const __m256i_u*>(p)));
  return LowNibbles(_mm512_or_si512(x, _mm512_slli_epi16(x, 4)));
}
// Each byte's bits two places up (down); those that leave the byte must be 0.
static inline Bytes UpTwo(Bytes x) { return _mm512_slli_epi16(x, 2); }
static inline Bytes DownTwo(Bytes x) {
  return _mm512_and_si512(_mm512_srli_epi16(x, 2), _mm512_set1_epi8(0x3f));
}

static inline Bytes UnpackLow8(Bytes a, Bytes b) { return _mm512_unpacklo_epi8(a, b); }
static inline Bytes UnpackHigh8(Bytes a, Bytes b) { return _mm512_unpackhi_epi8(a, b); }
static inline Bytes UnpackLow16(Bytes a, Bytes b) { return _mm512_unpacklo_epi16(a, b); }
static inline Bytes UnpackHigh16(Bytes a, Bytes b) { return _mm512_unpackhi_epi16(a, b); }
static inline Bytes UnpackLow32(Bytes a, Bytes b) { return _mm512_unpacklo_epi32(a, b); }
static inline Bytes UnpackHigh32(Bytes a, Bytes b) { return _mm512_unpackhi_epi32(a, b); }
static inline Bytes UnpackLow64(Bytes a, Bytes b) { return _mm512_unpacklo_epi64(a, b); }
static inline Bytes UnpackHigh64(Bytes a, Bytes b) { return _mm512_unpackhi_epi64(a, b); }

// The bits of a where those of `mask`, the same in every byte, are set; b's elsewhere.
static inline Bytes Choose(int mask, Bytes a, Bytes b) {
  const Bytes m = _mm512_set1_epi8(static_cast<char>(mask));
  return _mm512_ternarylogic_epi32(m, a, b, 0xca);
}

// table[i % 16] for each byte i below 128.
static inline Bytes LookUpCodes(Bytes table, Bytes i) { return _mm512_shuffle_epi8(table, i); }

// 16 values at any address.
static inline Vec LoadValues(const float* p) { return Load(p); }
static inline Vec LoadValues(const Bf16* p) { return LoadBf16(p); }
static inline Vec LoadValues(const F16* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p)));
}

// 32 int8 at any address, as int16.
static inline Bytes LoadWords(const int8_t* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p)));
}
// 16 int32 of [-32768, 32767] as int16.
static inline void StoreWords(int16_t* p, Bytes x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(p), _mm512_cvtepi32_epi16(x));
}
// Two int16 in each 32 bits.
static inline Bytes RepeatPair(const int16_t* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof(pair));
  return _mm512_set1_epi32(pair);
}
// int32 as floats.
static inline Vec ToVec(Bytes x) { return _mm512_cvtepi32_ps(x); }

}  // namespace tandem::kernels::avx512
