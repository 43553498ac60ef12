// The rotation at the avx512 level, for tests.
#include "kernels/cpu/vec_avx512.h"
#include "kernels/kv_row.h"
#include "tests/kernels/rotate_levels.h"

namespace tandem::kernels {
namespace avx512 {
#include "kernels/cpu/rotate.inc"
}  // namespace avx512

const RotateLevel kRotateAvx512 = {"avx512", avx512::Rotate, avx512::Unrotate};

}  // namespace tandem::kernels
