// Requests for picking a token, as the device and as the host's sampler take them, and a plain
// reference that sorts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "engine/philox.h"
#include "engine/sampling.h"
#include "kernels/cuda/pick.h"

namespace tandem::kernels {

using K_WORLD::PickRequest;

constexpr float kInf = std::numeric_limits<float>::infinity();

// The same request for engine::Sample.
struct HostRequest {
  explicit HostRequest(const PickRequest& r)
      : params{.temperature = r.temperature,
               .top_k = r.top_k,
               .top_p = r.top_p,
               .min_p = r.min_p,
               .seed = r.seed},
        choice(r.choice),
        position(r.position) {}

  engine::SampleRequest request() const {
    return {.params = &params, .choice = choice, .position = position};
  }

  engine::SamplingParams params;
  int choice;
  int64_t position;
};

inline PickRequest RandomRequest(int row, int vocab, std::mt19937& random) {
  const auto any_of = [&](std::initializer_list<float> values) {
    return values.begin()[random() % values.size()];
  };
  return {.seed = uint64_t{random()} << 32 | random(),
          .position = static_cast<int64_t>(random() % 100000),
          .row = row,
          .temperature = any_of({0.0f, 0.05f, 0.3f, 0.7f, 1.0f, 1.0f, 1.5f, 4.0f}),
          .top_k = static_cast<int32_t>(
              any_of({0.0f, 0.0f, 0.0f, 1.0f, 2.0f, 5.0f, 40.0f, 1000.0f, 1.0f * vocab, 1e6f})),
          .top_p = any_of({1.0f, 1.0f, 0.9999f, 0.95f, 0.9f, 0.5f, 0.1f, 1e-6f, 0.0f}),
          .min_p = any_of({0.0f, 0.0f, 0.0f, 0.001f, 0.05f, 0.5f, 1.0f}),
          .choice = static_cast<int32_t>(random() % 3)};
}

struct Token {
  float value;
  int32_t id;
};

// What the cuts leave, in falling order, by one sort and sums in f64.
struct SortedCuts {
  std::vector<Token> kept;
  // How far the mass is from top_p's share before and behind the last id, as a share of all: where
  // this is as small as rounding, the cut may go either way.
  double margin = 1.0;
};

inline SortedCuts CutBySorting(std::vector<Token> tokens, const PickRequest& r) {
  std::erase_if(tokens, [](const Token& t) { return t.value == -kInf; });
  std::sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
  });
  SortedCuts cuts;
  if (tokens.empty()) return cuts;
  const double max = tokens[0].value;
  const auto weight = [&](const Token& t) { return std::exp((t.value - max) / r.temperature); };
  if (r.top_k > 0 && tokens.size() > static_cast<size_t>(r.top_k)) tokens.resize(r.top_k);
  if (r.top_p < 1.0f) {
    double total = 0.0, mass = 0.0;
    for (const Token& t : tokens) total += weight(t);
    size_t length = 0;
    while (length < tokens.size() && (length == 0 || mass < double{r.top_p} * total)) {
      if (length > 0) cuts.margin = std::abs(mass - r.top_p * total) / total;
      mass += weight(tokens[length++]);
    }
    cuts.margin = std::min(cuts.margin, std::abs(mass - r.top_p * total) / total);
    tokens.resize(length);
  }
  std::erase_if(tokens, [&](const Token& t) { return weight(t) < r.min_p; });
  cuts.kept = tokens;
  return cuts;
}

// Whether no cut is within rounding of another one, nor the second best score of the best.
inline bool IsClear(const SortedCuts& cuts, const PickRequest& r) {
  if (!(r.temperature > 0.0f)) return true;
  double best = -kInf, second = -kInf;
  for (const Token& t : cuts.kept) {
    const auto words =
        engine::Philox4x32({static_cast<uint32_t>(r.position), static_cast<uint32_t>(t.id / 4), 0,
                            static_cast<uint32_t>(r.choice)},
                           {static_cast<uint32_t>(r.seed), static_cast<uint32_t>(r.seed >> 32)});
    const double v = (words[t.id % 4] + 0.5) / 0x1p32;
    const double score = double{t.value} / r.temperature - std::log(-std::log1p(-v));
    second = std::max(second, std::min(best, score));
    best = std::max(best, score);
  }
  return cuts.margin > 1e-6 && best - second > 1e-4;
}

}  // namespace tandem::kernels
