// The rotation at the avx2 level, for tests.
#include "kernels/cpu/vec_avx2.h"
#include "kernels/kv_row.h"
#include "tests/kernels/rotate_levels.h"

namespace tandem::kernels {
namespace avx2 {
#include "kernels/cpu/rotate.inc"
}  // namespace avx2

const RotateLevel kRotateAvx2 = {"avx2", avx2::Rotate, avx2::Unrotate};

}  // namespace tandem::kernels
