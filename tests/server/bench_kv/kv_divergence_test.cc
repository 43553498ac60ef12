#include "server/cli/kv_divergence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tandem::server {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Logits of these probabilities, all shifted by `shift`.
std::vector<float> Logits(const std::vector<double>& probabilities, double shift = 0.0) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + shift));
  return logits;
}

TEST(DivergeTest, ItIsWhatThePenAndPaperSay) {
  // 1/2 ln(1/2 : 1/4) + 1/4 ln(1/4 : 1/4) + 1/4 ln(1/4 : 1/2) = 1/4 ln 2.
  const Divergence d = Diverge(Logits({0.5, 0.25, 0.25}), Logits({0.25, 0.25, 0.5}));
  EXPECT_NEAR(d.kl, 0.25 * std::log(2.0), 1e-7);
  EXPECT_NEAR(d.max_abs, std::log(2.0), 1e-6);
  EXPECT_FALSE(d.same_top);
  // It is not symmetric: 0.9 ln(0.9 : 0.5) + 0.1 ln(0.1 : 0.5), and 0.5 ln(0.5 : 0.9) + ...
  EXPECT_NEAR(Diverge(Logits({0.9, 0.1}), Logits({0.5, 0.5})).kl, 0.368064, 1e-6);
  EXPECT_NEAR(Diverge(Logits({0.5, 0.5}), Logits({0.9, 0.1})).kl, 0.510826, 1e-6);
}

TEST(DivergeTest, EqualLogitsAreNoDistanceApart) {
  const std::vector<float> logits = Logits({0.1, 0.2, 0.7});
  const Divergence d = Diverge(logits, logits);
  EXPECT_EQ(d.kl, 0.0);
  EXPECT_EQ(d.max_abs, 0.0);
  EXPECT_TRUE(d.same_top);
}

TEST(DivergeTest, AShiftOfAllLogitsIsNoDivergence) {
  const Divergence d = Diverge(Logits({0.25, 0.75}), Logits({0.25, 0.75}, 100.0));
  EXPECT_NEAR(d.kl, 0.0, 1e-6);
  EXPECT_NEAR(d.max_abs, 100.0, 1e-4);
  EXPECT_TRUE(d.same_top);
}

TEST(DivergeTest, TheLowestOfEqualsIsTheMostLikely) {
  EXPECT_FALSE(Diverge(Logits({0.4, 0.4, 0.2}), Logits({0.39, 0.41, 0.2})).same_top);
  EXPECT_TRUE(Diverge(Logits({0.4, 0.4, 0.2}), Logits({0.41, 0.39, 0.2})).same_top);
}

TEST(DivergeTest, WhatCanNotBeDrawnDoesNotCount) {
  const std::vector<float> reference = {0.0f, kNever, 0.0f};
  const Divergence d = Diverge(reference, std::vector<float>{0.0f, 50.0f, 0.0f});
  EXPECT_NEAR(d.kl, 0.0, 1e-12);
  EXPECT_EQ(d.max_abs, 0.0);
  EXPECT_TRUE(d.same_top);
}

TEST(DivergeTest, ANaNAgreesWithNothing) {
  for (const float wrong : {std::nanf(""), kNever, -kNever}) {
    const Divergence d = Diverge(Logits({0.5, 0.5}), std::vector<float>{0.0f, wrong});
    EXPECT_FALSE(d.same_top);
    EXPECT_EQ(d.kl, std::numeric_limits<double>::infinity());
    EXPECT_EQ(d.max_abs, std::numeric_limits<double>::infinity());
  }
}

TEST(FiguresTest, TheyCountEveryPositionOnce) {
  Divergences some;
  for (int i = 2000; i > 0; --i) {
    some.Add({.kl = static_cast<double>(i), .same_top = i % 4 == 0, .max_abs = i * 0.5});
  }
  const DivergenceFigures figures = FiguresOf(some);
  EXPECT_EQ(figures.positions, 2000);
  EXPECT_EQ(figures.same_top, 500);
  EXPECT_DOUBLE_EQ(figures.top_agreement(), 0.25);
  EXPECT_DOUBLE_EQ(figures.mean_kl, 1000.5);
  // 1998 of the 2000 are at most 1998.
  EXPECT_DOUBLE_EQ(figures.kl_999, 1998.0);
  EXPECT_DOUBLE_EQ(figures.max_kl, 2000.0);
  EXPECT_DOUBLE_EQ(figures.max_abs, 1000.0);
}

TEST(FiguresTest, OfFewPositionsTheQuantileIsTheLargest) {
  Divergences some;
  some.Add({.kl = 1.0});
  some.Add({.kl = 3.0});
  EXPECT_DOUBLE_EQ(FiguresOf(some).kl_999, 3.0);
  EXPECT_DOUBLE_EQ(FiguresOf(Divergences{}).top_agreement(), 1.0);
}

}  // namespace
}  // namespace tandem::server
