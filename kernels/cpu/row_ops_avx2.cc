// Row operations at the avx2 level.
#include "kernels/cpu/row_ops_kernels.h"
#include "kernels/cpu/vec_avx2.h"
#include "kernels/cpu/vec_math_avx2.h"

namespace tandem::kernels {
namespace avx2 {
#include "kernels/cpu/row_ops.inc"
}  // namespace avx2

const RowKernels kRowKernelsAvx2 = {
    .rms_norm = avx2::RmsNormRow,
    .norm_add = avx2::NormAddRow,
    .ple = avx2::PleRow,
    .gelu_mul = avx2::GeluMulRow,
    .softcap = avx2::SoftcapRow,
};

}  // namespace tandem::kernels
