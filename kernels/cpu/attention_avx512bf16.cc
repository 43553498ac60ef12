// Attention at the avx512bf16 level: that of avx512, with the integer dot products of VNNI.
#include "kernels/cpu/attention_bytes_avx512.h"
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/vec_avx512.h"
#include "kernels/cpu/vec_int_avx512.h"
#include "kernels/cpu/vec_math_avx512.h"

namespace tandem::kernels {
namespace avx512vnni {

using namespace avx512;

// vpdpbusd takes one side without sign: k + 128.
using DotKey = Bytes;
static inline DotKey PrepareKey(Bytes k) {
  return _mm512_xor_si512(k, _mm512_set1_epi8(static_cast<char>(0x80)));
}
static inline Bytes AddDots(Bytes sums, Bytes q, DotKey key) {
  return _mm512_dpbusd_epi32(sums, key, q);
}
constexpr int kDotBias = 128;
static inline Bytes AddPairs(Bytes sums, Bytes a, Bytes b) {
  return _mm512_dpwssd_epi32(sums, a, b);
}

#include "kernels/cpu/attention.inc"

}  // namespace avx512vnni

const AttentionKernels kAttentionKernelsAvx512Bf16 = {
    .prepare = avx512vnni::PrepareQuery,
    .chunk = avx512vnni::Chunk,
    .fold = avx512vnni::Fold,
    .finish = avx512vnni::Finish,
};

}  // namespace tandem::kernels
