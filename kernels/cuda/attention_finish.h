// A row and head of the output, from the sums of its softmax: a warp's work.
//
//   out = o / l, 0 where l is 0; then s (1/sqrt(D)) H out where V is stored rotated; bf16
#pragma once

#include "kernels/cuda/kport.h"
#include "kernels/cuda/rotate.h"

namespace tandem::kernels::K_WORLD {

K_DEVICE float InverseSum(float sum) { return sum == 0.0f ? 0.0f : div_rn(1.0f, sum); }

// `values` are o, D/32 neighbours per lane; `out` is that of dimension 0.
template <int kDim>
K_DEVICE void FinishRow(float (&values)[kDim / kWarp], float inverse_sum, KvFormat v_format,
                        bf16* out) {
  constexpr int kValues = kDim / kWarp;
  const int lane = lane_id();
  K_UNROLL
  for (int i = 0; i < kValues; ++i) values[i] = mul_rn(values[i], inverse_sum);
  if (KvHasScale(v_format)) {
    Hadamard<kDim>(values, lane);
    K_UNROLL
    for (int i = 0; i < kValues; ++i) values[i] = mul_rn(values[i], kRotationScale<kDim>);
    FlipSigns<kDim>(values, lane);
  }
  K_UNROLL
  for (int i = 0; i < kValues; i += 8) {
    Bf16x8 eight;
    K_UNROLL
    for (int j = 0; j < 8; ++j) eight[j] = f32_to_bf16_rn(values[i + j]);
    st(reinterpret_cast<Bf16x8*>(out + lane * kValues + i), eight);
  }
}

}  // namespace tandem::kernels::K_WORLD
