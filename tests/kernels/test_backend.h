// What the kernel tests share: a backend per level, random values, distances.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace tandem::kernels {

// Every level that this machine can run, the reference first.
inline std::vector<CpuIsa> Levels() {
  std::vector<CpuIsa> levels;
  for (int isa = 0; isa <= static_cast<int>(BestCpuIsa()); ++isa) {
    levels.push_back(static_cast<CpuIsa>(isa));
  }
  return levels;
}

// The levels above the reference, whose plain loops make one row after the other.
inline std::vector<CpuIsa> VectorLevels() {
  std::vector<CpuIsa> levels = Levels();
  levels.erase(levels.begin());
  return levels;
}

inline std::string LevelName(const testing::TestParamInfo<CpuIsa>& info) {
  return std::string(CpuIsaName(info.param));
}

inline CpuBackendPtr BackendAt(CpuIsa isa, int threads) {
  CpuConfig config;
  config.threads = threads;
  config.isa = isa;
  absl::StatusOr<CpuBackendPtr> backend = MakeCpuBackend(config);
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

inline std::vector<float> RandomFloats(size_t count, uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& x : values) x = normal(random);
  return values;
}

// ||got - want|| / ||want||, and infinity when anything is NaN.
inline double RelativeError(std::span<const float> got, std::span<const float> want) {
  if (got.size() != want.size()) return INFINITY;
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += (double{got[i]} - want[i]) * (double{got[i]} - want[i]);
    norm += double{want[i]} * want[i];
  }
  const double error = norm == 0.0 ? std::sqrt(difference) : std::sqrt(difference / norm);
  return std::isnan(error) ? INFINITY : error;
}

// f32 results of f32 arithmetic against f64 (kernels.md 11).
constexpr double kFloatTolerance = 1e-5;

}  // namespace tandem::kernels
