// bf16 values as the CUDA kernels take and give them.
#pragma once

#include <cstring>
#include <vector>

#include "kernels/types.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {

inline std::vector<Bf16> Rounded(const std::vector<float>& x) {
  std::vector<Bf16> y;
  for (const float v : x) y.push_back(ToBf16(v));
  return y;
}

inline std::vector<float> Widened(const std::vector<Bf16>& x) {
  std::vector<float> y;
  for (const Bf16 v : x) y.push_back(ToFloat(v));
  return y;
}

inline std::vector<Bf16> RandomBf16(size_t count, uint32_t seed, float scale = 1.0f) {
  return Rounded(RandomFloats(count, seed, scale));
}

template <typename T, typename Allocator>
bool SameBits(const std::vector<T, Allocator>& a, const std::vector<T, Allocator>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace tandem::kernels
