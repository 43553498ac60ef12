// Activations to 8 bits, for the AVX-512 levels of products with codes. Everything is static.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/linear_codes.h"

namespace tandem::kernels {

// Lanes first .. first + 15 below `end`.
static inline __mmask16 CodeLanes(int first, int end) {
  const int count = end - first;
  return count >= 16 ? 0xffff : count > 0 ? static_cast<__mmask16>((1u << count) - 1) : 0;
}

// The rows of a panel, as linear_codes.h has them.
static void PackCodesAvx512(const PackTask& task) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (int r = 0; r < task.rows; ++r) {
    const float* x = task.x + (task.row_ids != nullptr ? task.row_ids[r] : r) * task.x_stride;
    for (int g = kCodeUnitGroups * task.unit_begin; g < kCodeUnitGroups * task.unit_end; ++g) {
      std::byte* const group = task.panel + g * task.rows * kCodeGroupPanelBytes;
      std::byte* const q = group + r * kCodeGroup;
      float* const scale = reinterpret_cast<float*>(group + task.rows * kCodeGroup) + r;
      int* const q_sum = reinterpret_cast<int*>(group + task.rows * (kCodeGroup + 4)) + r;

      const int k = g * kCodeGroup;
      const __mmask16 low_lanes = CodeLanes(k, task.in), high_lanes = CodeLanes(k + 16, task.in);
      // A masked load touches nothing where no lane is asked for.
      const __m512 low = _mm512_maskz_loadu_ps(low_lanes, x + k);
      const __m512 high = _mm512_maskz_loadu_ps(high_lanes, x + k + 16);
      // Magnitudes in the order of their bits: whatever is not finite comes out on top.
      const int bits = _mm512_reduce_max_epi32(
          _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low), magnitude),
                           _mm512_and_si512(_mm512_castps_si512(high), magnitude)));
      const float amax = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(bits)));
      __m512i q_low = _mm512_setzero_si512(), q_high = _mm512_setzero_si512();
      *scale = 0.0f;
      if (bits >= kInfinityBits) {
        *scale = __builtin_nanf("");
      } else if (amax >= kLeastAmax) {
        *scale = amax / 127.0f;
        const __m512 inverse = _mm512_set1_ps(127.0f / amax);
        q_low = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
        q_high = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
      }
      _mm_storeu_si128(reinterpret_cast<__m128i_u*>(q), _mm512_cvtepi32_epi8(q_low));
      _mm_storeu_si128(reinterpret_cast<__m128i_u*>(q + 16), _mm512_cvtepi32_epi8(q_high));
      *q_sum = _mm512_reduce_add_epi32(_mm512_add_epi32(q_low, q_high));
    }
  }
}

}  // namespace tandem::kernels
