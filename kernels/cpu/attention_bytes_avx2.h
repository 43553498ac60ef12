// Stored values as floats, and the words of attention_codes.inc and attention_weights.inc, 32 bytes
// wide. The twin of attention_bytes_avx512.h.
//
// Included by files compiled with AVX2 flags only; everything is static (no copy for others).
// Unpack and LookUpCodes work inside each 16 bytes.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/cpu/vec_avx2.h"
#include "kernels/types.h"

namespace tandem::kernels::avx2 {

using Bytes = __m256i;
constexpr int kBytes = 32;

static inline Bytes LoadCodes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i_u*>(p));
}
static inline void StoreCodes(void* p, Bytes x) {
  _mm256_storeu_si256(static_cast<__m256i_u*>(p), x);
}
// 16 bytes in each 16 bytes.
static inline Bytes RepeatCodes(const void* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i_u*>(p)));
}

static inline Bytes LowNibbles(Bytes x) { return _mm256_and_si256(x, _mm256_set1_epi8(0x0f)); }
static inline Bytes HighNibbles(Bytes x) { return LowNibbles(_mm256_srli_epi16(x, 4)); }
// The nibbles of the 16 bytes at p, low ones first, each in a byte.
static inline Bytes SpreadNibbles(const void* p) {
  const Bytes x = _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i_u*>(p)));
  return LowNibbles(_mm256_or_si256(x, _mm256_slli_epi16(x, 4)));
}
// Each byte's bits two places up (down); those that leave the byte must be 0.
static inline Bytes UpTwo(Bytes x) { return _mm256_slli_epi16(x, 2); }
static inline Bytes DownTwo(Bytes x) {
  return _mm256_and_si256(_mm256_srli_epi16(x, 2), _mm256_set1_epi8(0x3f));
}

static inline Bytes UnpackLow8(Bytes a, Bytes b) { return _mm256_unpacklo_epi8(a, b); }
static inline Bytes UnpackHigh8(Bytes a, Bytes b) { return _mm256_unpackhi_epi8(a, b); }
static inline Bytes UnpackLow16(Bytes a, Bytes b) { return _mm256_unpacklo_epi16(a, b); }
static inline Bytes UnpackHigh16(Bytes a, Bytes b) { return _mm256_unpackhi_epi16(a, b); }
static inline Bytes UnpackLow32(Bytes a, Bytes b) { return _mm256_unpacklo_epi32(a, b); }
static inline Bytes UnpackHigh32(Bytes a, Bytes b) { return _mm256_unpackhi_epi32(a, b); }
static inline Bytes UnpackLow64(Bytes a, Bytes b) { return _mm256_unpacklo_epi64(a, b); }
static inline Bytes UnpackHigh64(Bytes a, Bytes b) { return _mm256_unpackhi_epi64(a, b); }

// The bits of a where those of `mask`, the same in every byte, are set; b's elsewhere.
static inline Bytes Choose(int mask, Bytes a, Bytes b) {
  const Bytes m = _mm256_set1_epi8(static_cast<char>(mask));
  return _mm256_xor_si256(b, _mm256_and_si256(m, _mm256_xor_si256(a, b)));
}

// table[i % 16] for each byte i below 128.
static inline Bytes LookUpCodes(Bytes table, Bytes i) { return _mm256_shuffle_epi8(table, i); }

// 8 values at any address.
static inline Vec LoadValues(const float* p) { return Load(p); }
static inline Vec LoadValues(const Bf16* p) { return LoadBf16(p); }
static inline Vec LoadValues(const F16* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p)));
}

// 16 int8 at any address, as int16.
static inline Bytes LoadWords(const int8_t* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p)));
}
// 8 int32 of [-32768, 32767] as int16.
static inline void StoreWords(int16_t* p, Bytes x) {
  _mm_storeu_si128(reinterpret_cast<__m128i_u*>(p),
                   _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
}
// Two int16 in each 32 bits.
static inline Bytes RepeatPair(const int16_t* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof(pair));
  return _mm256_set1_epi32(pair);
}
// int32 as floats.
static inline Vec ToVec(Bytes x) { return _mm256_cvtepi32_ps(x); }

}  // namespace tandem::kernels::avx2
