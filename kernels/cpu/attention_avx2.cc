// Attention at the avx2 level.
#include "kernels/cpu/attention_bytes_avx2.h"
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/vec_avx2.h"
#include "kernels/cpu/vec_int_avx2.h"
#include "kernels/cpu/vec_math_avx2.h"

namespace tandem::kernels {
namespace avx2 {

// maddubs takes one side without sign, so k's goes over to q. |k| <= 128 and |q| <= 127: a pair of
// products fits 16 bits.
struct DotKey {
  Bytes k;
  Bytes magnitude;
};
static inline DotKey PrepareKey(Bytes k) { return {k, _mm256_abs_epi8(k)}; }
static inline Bytes AddDots(Bytes sums, Bytes q, DotKey key) {
  const Bytes pairs = _mm256_maddubs_epi16(key.magnitude, _mm256_sign_epi8(q, key.k));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
constexpr int kDotBias = 0;
static inline Bytes AddPairs(Bytes sums, Bytes a, Bytes b) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(a, b));
}

#include "kernels/cpu/attention.inc"

}  // namespace avx2

const AttentionKernels kAttentionKernelsAvx2 = {
    .prepare = avx2::PrepareQuery,
    .chunk = avx2::Chunk,
    .fold = avx2::Fold,
    .finish = avx2::Finish,
};

}  // namespace tandem::kernels
