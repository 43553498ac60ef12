// Attention at the avx512 level.
#include "kernels/cpu/attention_bytes_avx512.h"
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/vec_avx512.h"
#include "kernels/cpu/vec_int_avx512.h"
#include "kernels/cpu/vec_math_avx512.h"

namespace tandem::kernels {
namespace avx512 {

// maddubs takes one side without sign, so k's goes over to q. |k| <= 128 and |q| <= 127: a pair of
// products fits 16 bits.
struct DotKey {
  __mmask64 negative;
  Bytes magnitude;
};
static inline DotKey PrepareKey(Bytes k) { return {_mm512_movepi8_mask(k), _mm512_abs_epi8(k)}; }
static inline Bytes AddDots(Bytes sums, Bytes q, DotKey key) {
  const Bytes signed_q = _mm512_mask_sub_epi8(q, key.negative, _mm512_setzero_si512(), q);
  const Bytes pairs = _mm512_maddubs_epi16(key.magnitude, signed_q);
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
constexpr int kDotBias = 0;
static inline Bytes AddPairs(Bytes sums, Bytes a, Bytes b) {
  return _mm512_add_epi32(sums, _mm512_madd_epi16(a, b));
}

#include "kernels/cpu/attention.inc"

}  // namespace avx512

const AttentionKernels kAttentionKernelsAvx512 = {
    .prepare = avx512::PrepareQuery,
    .chunk = avx512::Chunk,
    .fold = avx512::Fold,
    .finish = avx512::Finish,
};

}  // namespace tandem::kernels
