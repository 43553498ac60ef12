// gelu_tanh, written once for every kernel that ends in it.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))        (gemma4.md 1)
K_DEVICE float gelu_tanh(float x) {
  const float cube = mul_rn(mul_rn(x, x), x);
  const float u = mul_rn(0.797884561f, fma_rn(0.044715f, cube, x));
  return mul_rn(mul_rn(0.5f, x), add_rn(1.0f, tanh_acc(u)));
}

}  // namespace tandem::kernels::K_WORLD
