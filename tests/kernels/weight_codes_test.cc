// The quantiser of weights: its definition by hand, its error, its edges.
#include "kernels/weight_codes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace tandem::kernels {
namespace {

using testing::Each;
using testing::ElementsAreArray;

struct Group {
  std::array<int8_t, kWeightGroup> codes;
  F16 scale;
  bool fits;
};

// The group of `values` and zeros behind them.
Group Encode(WeightFormat format, std::vector<float> values) {
  values.resize(kWeightGroup);
  Group group = {};
  group.codes.fill(99);
  group.fits = EncodeWeightGroup(format, values.data(), group.codes.data(), group.scale);
  return group;
}

std::vector<int> Codes(const Group& group, size_t count) {
  return {group.codes.begin(), group.codes.begin() + count};
}

double SquaredError(const std::vector<float>& values, const Group& group) {
  double error = 0.0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double difference = values[i] - DecodeWeight(group.scale, group.codes[i]);
    error += difference * difference;
  }
  return error;
}

std::vector<float> RandomBf16(uint32_t seed, float deviation, size_t count = kWeightGroup) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = ToFloat(ToBf16(normal(random)));
  return values;
}

TEST(WeightCodesTest, Int8CountsInUnitsOfTheLargestOver127) {
  // Given a largest magnitude of 127/64, so a scale of 1/64.
  const Group group =
      Encode(WeightFormat::kInt8, {127.0f / 64, -1.0f, 0.5f / 64, 1.5f / 64, -2.5f / 64, 0.0f});
  // Then values are counted in 64ths, and halves go to the even neighbour.
  EXPECT_TRUE(group.fits);
  EXPECT_EQ(ToFloat(group.scale), 1.0f / 64);
  EXPECT_THAT(Codes(group, 6), ElementsAreArray({127, -64, 0, 2, -2, 0}));
  EXPECT_THAT(std::vector<int>(group.codes.begin() + 6, group.codes.end()), Each(0));
}

TEST(WeightCodesTest, Int4PutsTheLargestAtMinusEightWhenThatIsExact) {
  // Given values on the grid of scale 1/4 whose largest is -8/4, and +7/4 beside it.
  const Group group = Encode(WeightFormat::kInt4, {-2.0f, 1.75f, 0.25f, -0.75f});
  EXPECT_TRUE(group.fits);
  EXPECT_EQ(ToFloat(group.scale), 0.25f);
  EXPECT_THAT(Codes(group, 4), ElementsAreArray({-8, 7, 1, -3}));
  // And the same mirrored: the scale takes the sign.
  const Group mirrored = Encode(WeightFormat::kInt4, {2.0f, -1.75f, -0.25f, 0.75f});
  EXPECT_EQ(ToFloat(mirrored.scale), -0.25f);
  EXPECT_THAT(Codes(mirrored, 4), ElementsAreArray({-8, 7, 1, -3}));
}

TEST(WeightCodesTest, Int4RoundsHalvesToTheEvenNeighbour) {
  // Given every value of the grid 1/4 twice, so that no other scale is better, but for three ties.
  std::vector<float> values;
  for (int i = 0; i < kWeightGroup; ++i) values.push_back(0.25f * (i % 16 - 8));
  values[0] = 0.125f;   // 0.5
  values[1] = 0.375f;   // 1.5
  values[2] = -0.625f;  // -2.5
  const Group group = Encode(WeightFormat::kInt4, values);
  EXPECT_EQ(ToFloat(group.scale), 0.25f);
  EXPECT_THAT(Codes(group, 5), ElementsAreArray({0, 2, -2, -5, -4}));
}

TEST(WeightCodesTest, Int4FindsASymmetricGrid) {
  // Given values on the grid 1/2 from -7 to 7: with the largest at -8 none but it would be met.
  std::vector<float> values;
  for (int code = -7; code <= 7; ++code) values.push_back(0.5f * code);
  const Group group = Encode(WeightFormat::kInt4, values);
  EXPECT_EQ(SquaredError(values, group), 0.0);
}

TEST(WeightCodesTest, OfTwoEquallyLargeTheFirstDecidesTheSign) {
  EXPECT_LT(ToFloat(Encode(WeightFormat::kInt4, {1.0f, -1.0f}).scale), 0.0f);
  EXPECT_GT(ToFloat(Encode(WeightFormat::kInt4, {-1.0f, 1.0f}).scale), 0.0f);
}

TEST(WeightCodesTest, Int4IsTheBestOfItsSixteenScales) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const std::vector<float> values = RandomBf16(seed, 0.03f);
    const Group group = Encode(WeightFormat::kInt4, values);
    const float top = *std::max_element(values.begin(), values.end(),
                                        [](float a, float b) { return std::abs(a) < std::abs(b); });
    const double got = SquaredError(values, group);
    bool among = false;
    for (int eighths = -8; eighths < 8; ++eighths) {
      // The plain definition, in f64.
      const F16 scale = ToF16(top / -(8.0f + eighths / 8.0f));
      among = among || scale.bits == group.scale.bits;
      double error = 0.0;
      for (float value : values) {
        const double code = std::clamp(std::nearbyint(double{value} / ToFloat(scale)), -8.0, 7.0);
        error += std::pow(value - code * ToFloat(scale), 2);
      }
      EXPECT_LE(got, error * (1 + 1e-5)) << "seed " << seed << ", eighths " << eighths;
    }
    EXPECT_TRUE(among) << seed;
  }
}

TEST(WeightCodesTest, EveryValueIsWithinHalfAStep) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const std::vector<float> values = RandomBf16(seed, 0.02f);
    const Group group = Encode(WeightFormat::kInt8, values);
    for (int i = 0; i < kWeightGroup; ++i) {
      // The scale itself is rounded by at most 2^-11.
      EXPECT_LE(std::abs(values[i] - DecodeWeight(group.scale, group.codes[i])),
                (0.5 + 127 * 0x1p-11) * ToFloat(group.scale));
    }
  }
}

TEST(WeightCodesTest, ErrorOfNormalValuesIsWhatTheFormatsPromise) {
  double norm = 0.0, int8 = 0.0, int4 = 0.0;
  for (uint32_t seed = 0; seed < 1000; ++seed) {
    const std::vector<float> values = RandomBf16(seed, 0.02f);
    for (float value : values) norm += double{value} * value;
    int8 += SquaredError(values, Encode(WeightFormat::kInt8, values));
    int4 += SquaredError(values, Encode(WeightFormat::kInt4, values));
  }
  EXPECT_LT(std::sqrt(int8 / norm), 0.006);
  EXPECT_LT(std::sqrt(int4 / norm), 0.085);
  EXPECT_GT(std::sqrt(int4 / norm), 0.05);  // it is 4 bits
}

TEST(WeightCodesTest, ZerosHaveNoScale) {
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    const Group group = Encode(format, {0.0f, -0.0f});
    EXPECT_TRUE(group.fits);
    EXPECT_EQ(group.scale.bits, 0);
    EXPECT_THAT(group.codes, Each(0));
  }
}

TEST(WeightCodesTest, ScalesMayBeSubnormalAndVanish) {
  // Given a largest value of 127 times the smallest F16.
  const Group smallest = Encode(WeightFormat::kInt8, {127 * 0x1p-24f, -64 * 0x1p-24f});
  EXPECT_EQ(smallest.scale.bits, 1);
  EXPECT_THAT(Codes(smallest, 2), ElementsAreArray({127, -64}));
  // A scale that is rounded down to it clamps the largest.
  const Group clamped = Encode(WeightFormat::kInt8, {127 * 0x1.7p-24f, 10 * 0x1p-24f});
  EXPECT_EQ(clamped.scale.bits, 1);
  EXPECT_THAT(Codes(clamped, 2), ElementsAreArray({127, 10}));
  // A scale below half of it is none.
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    const Group none = Encode(format, {-0x1p-23f, 0x1p-24f});
    EXPECT_TRUE(none.fits);
    EXPECT_EQ(none.scale.bits, 0);
    EXPECT_THAT(none.codes, Each(0));
  }
}

TEST(WeightCodesTest, WhatAFormatCanNotHoldIsSaid) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    EXPECT_FALSE(Encode(format, {1.0f, nan}).fits);
    EXPECT_FALSE(Encode(format, {1.0f, -nan}).fits);
    EXPECT_FALSE(Encode(format, {infinity}).fits);
    EXPECT_FALSE(Encode(format, {0.0f, -infinity, 1.0f}).fits);
  }
  EXPECT_TRUE(Encode(WeightFormat::kInt8, {65504.0f * 127}).fits);
  EXPECT_FALSE(Encode(WeightFormat::kInt8, {-65536.0f * 127}).fits);
  EXPECT_TRUE(Encode(WeightFormat::kInt4, {65504.0f * 8}).fits);
  EXPECT_FALSE(Encode(WeightFormat::kInt4, {-65536.0f * 8}).fits);
}

TEST(WeightCodesTest, ARowIsItsGroupsAndMayEndInsideOne) {
  for (int in : {1, 31, 32, 33, 70}) {
    // Given a row of bf16 at an odd address.
    const std::vector<float> values = RandomBf16(in, 1.0f, in);
    std::vector<std::byte> row(size_t{2} * in + 1);
    for (int k = 0; k < in; ++k) {
      const Bf16 stored = ToBf16(values[k]);
      std::memcpy(row.data() + 1 + 2 * k, &stored, 2);
    }
    for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
      std::vector<int8_t> codes(size_t{kWeightGroup} * WeightGroups(in));
      std::vector<F16> scales(WeightGroups(in));
      ASSERT_TRUE(EncodeWeightRow(format, row.data() + 1, in, codes.data(), scales.data()));
      // Then each group is what it is alone.
      for (int q = 0; q < WeightGroups(in); ++q) {
        const int end = std::min(in, (q + 1) * kWeightGroup);
        const Group group =
            Encode(format, {values.begin() + q * kWeightGroup, values.begin() + end});
        EXPECT_EQ(scales[q].bits, group.scale.bits);
        EXPECT_EQ(std::memcmp(codes.data() + q * kWeightGroup, group.codes.data(), kWeightGroup),
                  0);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
