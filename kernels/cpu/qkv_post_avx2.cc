// Storing K and V rows at the avx2 level.
#include "kernels/cpu/qkv_post_kernels.h"
#include "kernels/cpu/vec_int_avx2.h"

namespace tandem::kernels {
namespace avx2 {
#include "kernels/cpu/encode_row.inc"
#include "kernels/cpu/qkv_post.inc"
}  // namespace avx2

const QkvPostKernels kQkvPostKernelsAvx2 = {
    .norm_rope = avx2::NormRope,
    .encode = avx2::Encode,
};

}  // namespace tandem::kernels
