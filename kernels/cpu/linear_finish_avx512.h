// From finished sums to y, for the AVX-512 levels of linear. Everything is static.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/linear_loop.h"
#include "kernels/cpu/vec_math_avx512.h"

namespace tandem::kernels {

static void FinishAvx512(const FinishArgs& args) {
  const ProductTask& task = args.task;
  for (int r = 0; r < args.rows.count; ++r) {
    const int row = args.rows.begin + r;
    const float* sums = args.partial + r * kPartialRow;
    float* y =
        task.y + (task.finish == Finish::kAddScaled ? task.row_ids[row] : row) * task.y_stride;
    for (int column = 0; column < task.columns; column += kTileOutputs, sums += kTileOutputs) {
      const int left = task.columns - column;
      const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
      __m512 value = _mm512_loadu_ps(sums);
      if (task.finish == Finish::kGeglu) {
        sums += kTileOutputs;
        value = _mm512_mul_ps(avx512::GeluTanh(value), _mm512_loadu_ps(sums));
      } else if (task.finish == Finish::kAddScaled) {
        value = _mm512_fmadd_ps(_mm512_set1_ps(task.scales[row]), value,
                                _mm512_maskz_loadu_ps(mask, y + column));
      }
      _mm512_mask_storeu_ps(y + column, mask, value);
    }
  }
}

}  // namespace tandem::kernels
