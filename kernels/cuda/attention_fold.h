// Joins the softmax state of two disjoint runs of positions: maximum, sum, unnormalised output.
//
//   m = max(ma, mb);  l = la * 2^(ma - m) + lb * 2^(mb - m);  o likewise
//
// Scores are in base 2. Folding in {-infinity, 0, 0} changes nothing. Split and merge share this
// code: where partial results are folded must not show in the bits (kernels.md 5.1.6).
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

K_DEVICE float MinusInfinity() { return f32_of_bits(0xff800000u); }

// What both sides are multiplied by.
struct FoldFactors {
  float max;
  float left;
  float right;
};

K_DEVICE FoldFactors FoldAt(float left_max, float right_max) {
  const float max = left_max > right_max ? left_max : right_max;
  const bool nothing = max == MinusInfinity();
  return {max, nothing ? 1.0f : ex2(add_rn(left_max, -max)),
          nothing ? 0.0f : ex2(add_rn(right_max, -max))};
}

K_DEVICE float Fold(float left, float right, const FoldFactors& factors) {
  return fma_rn(right, factors.right, mul_rn(left, factors.left));
}

}  // namespace tandem::kernels::K_WORLD
