// From finished sums to y, for the AVX2 level of linear. Everything is static.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/linear_loop.h"
#include "kernels/cpu/vec_math_avx2.h"

namespace tandem::kernels {

static void FinishAvx2(const FinishArgs& args) {
  const ProductTask& task = args.task;
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int r = 0; r < args.rows.count; ++r) {
    const int row = args.rows.begin + r;
    const bool scaled = task.finish == Finish::kAddScaled;
    float* y = task.y + (scaled ? task.row_ids[row] : row) * task.y_stride;
    for (int column = 0; column < task.columns; column += 8) {
      // 8 columns are half a tile; gate and up tiles alternate.
      const float* sums = args.partial + r * kPartialRow;
      sums += task.finish == Finish::kGeglu ? column / 16 * 32 + column % 16 : column;
      const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(task.columns - column), lanes);
      __m256 value = _mm256_loadu_ps(sums);
      if (task.finish == Finish::kGeglu) {
        value = _mm256_mul_ps(avx2::GeluTanh(value), _mm256_loadu_ps(sums + kTileOutputs));
      } else if (scaled) {
        value = _mm256_fmadd_ps(_mm256_set1_ps(task.scales[row]), value,
                                _mm256_maskload_ps(y + column, mask));
      }
      _mm256_maskstore_ps(y + column, mask, value);
    }
  }
}

}  // namespace tandem::kernels
