// cos and sin of a step's rotary angles, for every layer of one kind.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// cos, sin of positions[t] * inv_freq[j], the angle an f32 product (gemma4.md 2.4), each rounded to
// within 0.51 units in its last place, at any position.
struct RopeTableArgs {
  const int32_t* positions = nullptr;  // [rows]
  const float* inv_freq = nullptr;     // [live], the non-zero frequencies, in [-1, 1]
  int live = 0;
  int rows = 0;          // rows * live < 2^31
  float* cos = nullptr;  // [rows, live]
  float* sin = nullptr;  // [rows, live]
};

void RopeTable(const RopeTableArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
