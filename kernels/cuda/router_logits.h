// Logits of a mixture's router, from rows that are not rounded first.
//
// Promise   a value's bits depend on its row, its weights and `in` alone.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// y[t, e] = sum_k w[e, k] * x[t, k], f32 throughout                    (gemma4.md 2.7)
struct RouterLogitsArgs {
  const float* x = nullptr;  // [rows, x_stride], `in` values used; 16-byte aligned
  int64_t x_stride = 0;      // a multiple of 4
  const bf16* w = nullptr;   // [experts, in] row-major, 16-byte aligned
  float* y = nullptr;        // [rows, experts]
  int rows = 0;              // any number
  int in = 0;                // a multiple of 8, as of WLinearSupports
  int experts = 0;           // any number
};

void RouterLogits(const RouterLogitsArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
