// Row-major operands of a linear layer, and the same weights as the reference wants them.
#pragma once

#include <vector>

#include "kernels/types.h"
#include "tests/emu/bf16_rows.h"
#include "tests/kernels/packed_weights.h"

namespace tandem::kernels {

inline PackedWeights Packed(const std::vector<Bf16>& w, int out, int in) {
  PackedWeights packed(out, in);
  for (int n = 0; n < out; ++n) {
    for (int k = 0; k < in; ++k) packed.At(n, k) = w[static_cast<size_t>(n) * in + k];
  }
  return packed;
}

}  // namespace tandem::kernels
