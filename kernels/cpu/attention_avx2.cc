// Attention at the avx2 level.
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/vec_avx2.h"
#include "kernels/cpu/vec_math_avx2.h"

namespace tandem::kernels {
namespace avx2 {
#include "kernels/cpu/attention.inc"
}  // namespace avx2

const AttentionKernels kAttentionKernelsAvx2 = {
    .chunk = avx2::Chunk,
    .fold = avx2::Fold,
    .finish = avx2::Finish,
};

}  // namespace tandem::kernels
