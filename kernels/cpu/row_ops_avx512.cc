// Row operations at the avx512 level.
#include "kernels/cpu/row_ops_kernels.h"
#include "kernels/cpu/vec_avx512.h"
#include "kernels/cpu/vec_math_avx512.h"

namespace tandem::kernels {
namespace avx512 {
#include "kernels/cpu/row_ops.inc"
}  // namespace avx512

const RowKernels kRowKernelsAvx512 = {
    .rms_norm = avx512::RmsNormRow,
    .norm_add = avx512::NormAddRow,
    .ple = avx512::PleRow,
    .gelu_mul = avx512::GeluMulRow,
    .softcap = avx512::SoftcapRow,
};

}  // namespace tandem::kernels
