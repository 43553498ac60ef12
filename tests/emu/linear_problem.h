// Row-major operands of a linear layer, and the same weights as the reference wants them.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/types.h"
#include "tests/kernels/packed_weights.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {

inline std::vector<Bf16> RandomBf16(size_t count, uint32_t seed, float scale = 1.0f) {
  std::vector<Bf16> values;
  for (const float x : RandomFloats(count, seed, scale)) values.push_back(ToBf16(x));
  return values;
}

inline std::vector<float> Widened(const std::vector<Bf16>& x) {
  std::vector<float> y;
  for (const Bf16 v : x) y.push_back(ToFloat(v));
  return y;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

inline PackedWeights Packed(const std::vector<Bf16>& w, int out, int in) {
  PackedWeights packed(out, in);
  for (int n = 0; n < out; ++n) {
    for (int k = 0; k < in; ++k) packed.At(n, k) = w[static_cast<size_t>(n) * in + k];
  }
  return packed;
}

}  // namespace tandem::kernels
