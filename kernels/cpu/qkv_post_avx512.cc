// Storing K and V rows at the avx512 level.
#include "kernels/cpu/qkv_post_kernels.h"
#include "kernels/cpu/vec_int_avx512.h"

namespace tandem::kernels {
namespace avx512 {
#include "kernels/cpu/encode_row.inc"
#include "kernels/cpu/qkv_post.inc"
}  // namespace avx512

const QkvPostKernels kQkvPostKernelsAvx512 = {
    .norm_rope = avx512::NormRope,
    .encode = avx512::Encode,
};

}  // namespace tandem::kernels
