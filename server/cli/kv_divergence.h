// How far one next-token distribution lies from another, and what many such comparisons come to.
//
// Not here  where the logits come from (kv_quality.h).
// Threads   pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::server {

struct Divergence {
  double kl = 0.0;  // KL(reference || other) in nats
  bool same_top = true;
  double max_abs = 0.0;  // largest difference of two logits
};

// Both are logits over the same ids; ids with a reference of -inf can not be drawn and do not
// count. The most likely id is the lowest of equals, as greedy sampling takes it. A NaN on either
// side, or -inf where the reference is not, is infinitely far and agrees with nothing.
Divergence Diverge(std::span<const float> reference, std::span<const float> other);

// Many of them, as they came.
struct Divergences {
  std::vector<double> kl;
  int64_t same_top = 0;
  double max_abs = 0.0;

  void Add(const Divergence& one);
};

struct DivergenceFigures {
  int64_t positions = 0;
  double mean_kl = 0.0;
  double kl_999 = 0.0;  // 99.9 % of the positions are at most so far: the nearest rank
  double max_kl = 0.0;
  int64_t same_top = 0;
  double max_abs = 0.0;

  // 1 without positions.
  double top_agreement() const {
    return positions > 0 ? static_cast<double>(same_top) / static_cast<double>(positions) : 1.0;
  }
};
DivergenceFigures FiguresOf(const Divergences& divergences);

}  // namespace tandem::server
