// Draws that are the same on every machine: a stream is named by a seed and a number, so that the
// n-th request of a workload can be made without making those before it.
//
// Source    SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
// Not here  the engine's sampling noise (engine/); nothing that has to be unpredictable.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace tandem::bench {

class Random {
 public:
  Random(uint64_t seed, uint64_t stream) : state_(Mix(seed) ^ Mix(~stream)) {}

  uint64_t Bits() { return Mix(state_ += 0x9e3779b97f4a7c15u); }
  // In [0, 1).
  double Unit() { return static_cast<double>(Bits() >> 11) * 0x1p-53; }
  // In [0, bound), for bound > 0; the bias is below bound / 2^64.
  uint64_t Below(uint64_t bound) { return Bits() % bound; }
  // Mean 1.
  double Exponential() { return -std::log1p(-Unit()); }
  // Mean 0, variance 1 (Box and Muller).
  double Normal() {
    const double radius = std::sqrt(2.0 * Exponential());
    return radius * std::cos(2.0 * std::numbers::pi * Unit());
  }

 private:
  static uint64_t Mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }

  uint64_t state_;
};

}  // namespace tandem::bench
