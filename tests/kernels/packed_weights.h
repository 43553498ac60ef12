// Packed weights for tests, made by the formula of types.h and not by the code under test.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/types.h"

namespace tandem::kernels {

class PackedWeights {
 public:
  PackedWeights(int out, int in) : out_(out), in_(in), lines_(PackedElements(out, in) / 32) {}

  // Normal values of variance 1/in, as bf16.
  static PackedWeights Random(int out, int in, uint32_t seed) {
    PackedWeights w(out, in);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, in > 0 ? 1.0f / std::sqrt(in) : 1.0f);
    for (int n = 0; n < out; ++n) {
      for (int k = 0; k < in; ++k) w.At(n, k) = ToBf16(normal(random));
    }
    return w;
  }

  // The gate and up rows of `width`, interleaved by tiles; rows past `width` are zero.
  static PackedWeights RandomGateUp(int width, int in, uint32_t seed) {
    const int tiles = static_cast<int>(PackedTiles(width));
    PackedWeights w = Random(2 * kTileOutputs * tiles, in, seed);
    for (int i = width; i < tiles * kTileOutputs; ++i) {
      for (int k = 0; k < in; ++k) w.Gate(i, k) = w.Up(i, k) = Bf16{};
    }
    return w;
  }

  Bf16& At(int n, int k) {
    const size_t pairs = (static_cast<size_t>(in_) + 1) / 2;
    return lines_[n / 16 * pairs + k / 2].values[n % 16 * 2 + k % 2];
  }
  Bf16& Gate(int i, int k) { return At(i / 16 * 32 + i % 16, k); }
  Bf16& Up(int i, int k) { return At(i / 16 * 32 + 16 + i % 16, k); }

  WeightView view() const { return {lines_.empty() ? nullptr : lines_[0].values, out_, in_}; }

 private:
  struct alignas(64) Line {
    Bf16 values[32];
  };
  int out_;
  int in_;
  std::vector<Line> lines_;
};

}  // namespace tandem::kernels
