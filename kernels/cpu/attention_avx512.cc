// Attention at the avx512 level.
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/vec_avx512.h"
#include "kernels/cpu/vec_math_avx512.h"

namespace tandem::kernels {
namespace avx512 {
#include "kernels/cpu/attention.inc"
}  // namespace avx512

const AttentionKernels kAttentionKernelsAvx512 = {
    .chunk = avx512::Chunk,
    .fold = avx512::Fold,
    .finish = avx512::Finish,
};

}  // namespace tandem::kernels
