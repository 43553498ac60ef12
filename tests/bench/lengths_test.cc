#include "bench/lengths.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace tandem::bench {
namespace {

using ::testing::HasSubstr;

std::string Error(std::string_view text) {
  return std::string(ParseLengths(text).status().message());
}

TEST(LengthsTest, AFixedLengthIsAlwaysTheSame) {
  const auto lengths = ParseLengths("128");
  ASSERT_TRUE(lengths.ok()) << lengths.status();
  Random random(1, 1);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(DrawLength(*lengths, random), 128);
}

TEST(LengthsTest, AUniformLengthReachesBothEndsAndNothingBeyond) {
  const auto lengths = ParseLengths("3-6");
  ASSERT_TRUE(lengths.ok()) << lengths.status();
  Random random(1, 1);
  int seen[8] = {};
  for (int i = 0; i < 4000; ++i) ++seen[std::clamp(DrawLength(*lengths, random), 0, 7)];
  EXPECT_EQ(seen[2] + seen[7] + seen[0] + seen[1], 0);
  for (int tokens = 3; tokens <= 6; ++tokens) EXPECT_NEAR(seen[tokens], 1000, 150) << tokens;
}

TEST(LengthsTest, ALognormalLengthHasTheMeanAndTheSpreadThatWereAsked) {
  const auto lengths = ParseLengths("lognormal:200:0.6");
  ASSERT_TRUE(lengths.ok()) << lengths.status();
  Random random(7, 1);
  constexpr int kDraws = 50'000;
  double sum = 0.0;
  double log_sum = 0.0;
  double log_sum_sq = 0.0;
  for (int i = 0; i < kDraws; ++i) {
    const double tokens = DrawLength(*lengths, random);
    sum += tokens;
    log_sum += std::log(tokens);
    log_sum_sq += std::log(tokens) * std::log(tokens);
  }
  EXPECT_NEAR(sum / kDraws, 200.0, 4.0);
  const double log_mean = log_sum / kDraws;
  EXPECT_NEAR(std::sqrt(log_sum_sq / kDraws - log_mean * log_mean), 0.6, 0.02);
}

TEST(LengthsTest, WhatIsNoLengthIsRefusedWithTheFormsThatAre) {
  for (const char* text : {"", "x", "12x", "4-", "lognormal:", "lognormal:9", "lognormal:a:1"}) {
    EXPECT_THAT(Error(text), HasSubstr("expected 128, 64-256 or lognormal:MEAN:SIGMA")) << text;
  }
  for (const char* text : {"0", "-3", "2000000", "0-5", "lognormal:0:1", "lognormal:nan:1"}) {
    EXPECT_THAT(Error(text), HasSubstr("out of range")) << text;
  }
  EXPECT_THAT(Error("9-4"), HasSubstr("ends before it begins"));
  EXPECT_THAT(Error("lognormal:9:nan"), HasSubstr("sigma is out of range"));
}

}  // namespace
}  // namespace tandem::bench
