#include "bench/arrivals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace tandem::bench {
namespace {

using ::testing::ElementsAre;

std::vector<int64_t> FirstArrivals(const ArrivalSpec& spec, uint64_t seed, int count) {
  Arrivals arrivals(spec, seed);
  std::vector<int64_t> times;
  for (int i = 0; i < count; ++i) times.push_back(arrivals.Next());
  return times;
}

TEST(ArrivalsTest, PoissonGapsHaveTheMeanAndTheSpreadOfAnExponential) {
  // Given 40 requests per second.
  const std::vector<int64_t> times = FirstArrivals({.rate = 40.0}, /*seed=*/5, 20'000);
  // When the gaps are looked at.
  double sum = 0.0;
  double sum_sq = 0.0;
  int64_t before = 0;
  for (const int64_t time : times) {
    const double gap_s = static_cast<double>(time - before) / 1e6;
    EXPECT_GE(gap_s, 0.0);
    sum += gap_s;
    sum_sq += gap_s * gap_s;
    before = time;
  }
  // Then mean and standard deviation are 1/40 s; the error of 20 000 draws is below 1 %.
  const double mean = sum / 20'000;
  EXPECT_NEAR(mean, 1.0 / 40, 0.03 / 40);
  EXPECT_NEAR(std::sqrt(sum_sq / 20'000 - mean * mean), 1.0 / 40, 0.05 / 40);
}

TEST(ArrivalsTest, TheSameSeedGivesTheSameTimesAndAnotherOthers) {
  const ArrivalSpec spec = {.rate = 3.0};
  EXPECT_EQ(FirstArrivals(spec, 1, 100), FirstArrivals(spec, 1, 100));
  EXPECT_NE(FirstArrivals(spec, 1, 100), FirstArrivals(spec, 2, 100));
}

TEST(ArrivalsTest, ConstantArrivalsAreEvenlySpaced) {
  EXPECT_THAT(FirstArrivals({.pattern = ArrivalSpec::Pattern::kConstant, .rate = 4.0}, 1, 4),
              ElementsAre(0, 250'000, 500'000, 750'000));
}

TEST(ArrivalsTest, BurstsKeepTheRateAndArriveTogether) {
  EXPECT_THAT(
      FirstArrivals({.pattern = ArrivalSpec::Pattern::kBurst, .rate = 2.0, .burst_size = 3}, 1, 7),
      ElementsAre(0, 0, 0, 1'500'000, 1'500'000, 1'500'000, 3'000'000));
}

}  // namespace
}  // namespace tandem::bench
