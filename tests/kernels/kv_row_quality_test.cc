// What the KV formats keep of a row: the rotation, the errors of every format against published
// numbers, norms and inner products.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <random>

#include "tests/kernels/kv_rows.h"
#include "tests/kernels/rotate_levels.h"

namespace tandem::kernels {
namespace {

constexpr int kRows = 20000;

using Random = std::mt19937;
using RowFiller = void (*)(Random& random, std::vector<float>& x);

float Normal(Random& random) {
  thread_local std::normal_distribution<float> normal;
  return normal(random);
}
float Uniform(Random& random, float end) {
  return std::uniform_real_distribution<float>(0.0f, end)(random);
}
void FillNormal(Random& random, std::vector<float>& x) {
  for (float& value : x) value = Normal(random);
}

// Those of this machine.
std::vector<RotateLevel> RotateLevels() {
  std::vector<RotateLevel> levels;
  if (BestCpuIsa() >= CpuIsa::kAvx2) levels.push_back(kRotateAvx2);
  if (BestCpuIsa() >= CpuIsa::kAvx512) levels.push_back(kRotateAvx512);
  return levels;
}

RowEncoder BestEncoder() { return EncoderAt(BestCpuIsa()); }

TEST(RotationTest, SignWordsAreSplitMixFrom42) {
  uint64_t state = 42;
  for (const uint64_t word : kKvSignWords) {
    state += 0x9e3779b97f4a7c15;
    uint64_t z = state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    EXPECT_EQ(word, z ^ z >> 31);
  }
}

TEST(RotationTest, AUnitVectorBecomesOnesOfTheHadamardMatrix) {
  for (const int dim : kScaledDims) {
    for (int column = 0; column < dim; ++column) {
      std::vector<float> x(dim), y(dim);
      x[column] = 1.0f;
      RotateReference(x.data(), dim, y.data());
      const bool flip = (kKvSignWords[column / 64] >> (column % 64) & 1) != 0;
      for (int row = 0; row < dim; ++row) {
        const bool negative = (std::popcount(unsigned(row & column)) % 2 != 0) != flip;
        ASSERT_EQ(y[row], negative ? -1.0f : 1.0f) << row << " " << column;
      }
    }
  }
}

TEST(RotationTest, NormsAndInnerProductsSurviveAndTheInverseUndoesIt) {
  for (const int dim : kScaledDims) {
    const double unit = 1.0 / std::sqrt(double(dim));
    for (int seed = 0; seed < 50; ++seed) {
      const std::vector<float> x = RandomFloats(dim, seed), k = RandomFloats(dim, seed + 1000);
      std::vector<float> rotated(dim), rotated_k(dim), back(dim);
      RotateReference(x.data(), dim, rotated.data());
      RotateReference(k.data(), dim, rotated_k.data());
      UnrotateReference(rotated.data(), dim, back.data());
      EXPECT_NEAR(Norm(rotated) * unit / Norm(x), 1.0, 1e-6);
      EXPECT_NEAR(Dot(rotated, rotated_k) * unit * unit, Dot(x, k), 1e-5 * Norm(x) * Norm(k));
      for (float& value : back) value *= kKvInverseSqrtDim[std::countr_zero(unsigned(dim)) - 6];
      EXPECT_LE(RelativeError(back, x), 1e-6);
    }
  }
}

TEST(RotationTest, EveryLevelHasTheReferencesBits) {
  for (const RotateLevel& level : RotateLevels()) {
    for (const int dim : kScaledDims) {
      for (int seed = 0; seed < 50; ++seed) {
        const std::vector<float> x = RandomFloats(dim, seed, std::ldexp(1.0f, seed * 4 - 120));
        std::vector<float> want(dim), got(dim);
        RotateReference(x.data(), dim, want.data());
        level.rotate(x.data(), dim, got.data());
        ASSERT_EQ(got, want) << level.name << " dim " << dim;
        UnrotateReference(x.data(), dim, want.data());
        got = x;
        level.unrotate(got.data(), dim);
        ASSERT_EQ(got, want) << level.name << " dim " << dim;
      }
    }
  }
}

// Sum over rows of their relative squared error, and the worst row.
struct Errors {
  double sum = 0.0;
  double max = 0.0;
  double Mean() const { return sum / kRows; }
};

// Of `kRows` bf16 rows, by kScaledFormats. Errors are taken in rotated space.
std::array<Errors, 4> MeasureErrors(int dim, RowFiller fill) {
  Random random(dim);
  std::array<Errors, 4> errors;
  std::vector<float> x(dim), y(dim), values(dim);
  std::vector<StoredRow> stored;
  for (const KvFormat format : kScaledFormats) stored.emplace_back(format, dim);
  for (int i = 0; i < kRows; ++i) {
    fill(random, x);
    for (float& value : x) value = ToFloat(ToBf16(value));
    RotateReference(x.data(), dim, y.data());
    for (float& value : y) value *= kKvInverseSqrtDim[std::countr_zero(unsigned(dim)) - 6];
    for (int f = 0; f < 4; ++f) {
      stored[f].Encode(BestEncoder(), x);
      DecodeRowReference(kScaledFormats[f], dim, stored[f].row(), values.data());
      const double error = RelativeError(values, y);
      errors[f].sum += error * error;
      errors[f].max = std::max(errors[f].max, error * error);
    }
  }
  return errors;
}

TEST(KvRowErrorTest, GaussianRowsAreWithinOnePercentOfTheFigures) {
  const double want_256[] = {0.000048, 0.009348, 0.034337, 0.119998};
  const double want_512[] = {0.000055, 0.009452, 0.034634, 0.120663};
  const double worst[] = {0.0003, 0.035, 0.08, 0.20};
  for (const int dim : {256, 512}) {
    const std::array<Errors, 4> errors = MeasureErrors(dim, FillNormal);
    for (int f = 0; f < 4; ++f) {
      const double want = dim == 256 ? want_256[f] : want_512[f];
      const std::string name = NameOf(kScaledFormats[f]) + "_" + std::to_string(dim);
      EXPECT_NEAR(errors[f].Mean(), want, (f == 0 ? 0.05 : 0.01) * want) << name;
      EXPECT_LT(errors[f].max, worst[f]) << name;
      RecordProperty(name, testing::PrintToString(errors[f].Mean()));
    }
  }
}

// Families of rows that are not Gaussian.
void FillLaplace(Random& random, std::vector<float>& x) {
  std::exponential_distribution<float> exponential;
  for (float& value : x) value = exponential(random) * (random() % 2 == 0 ? 1.0f : -1.0f);
}
void FillStudentOfTwoDegrees(Random& random, std::vector<float>& x) {
  std::student_t_distribution<float> student(2.0f);
  for (float& value : x) value = student(random);
}
void FillWithFourLoudChannels(Random& random, std::vector<float>& x) {
  FillNormal(random, x);
  for (const int channel : {3, 17, 100, 201}) x[channel] *= 30.0f;
}
void FillWithOneOffset(Random& random, std::vector<float>& x) {
  FillNormal(random, x);
  x[5] += 100.0f;
}
void FillAroundOne(Random& random, std::vector<float>& x) {
  for (float& value : x) value = 1.0f + 0.1f * Normal(random);
}
void FillWithSineWave(Random& random, std::vector<float>& x) {
  const float frequency = Uniform(random, 0.2f), phase = Uniform(random, 6.28f);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(frequency * static_cast<float>(i) + phase);
}

struct Family {
  const char* name;
  RowFiller fill;
  double want_256[4];  // mean relative squared errors by kScaledFormats
  double want_512[4];
};

constexpr Family kFamilies[] = {{"Laplace",  //
                                 FillLaplace,
                                 {0.000048, 0.009283, 0.034054, 0.119164},
                                 {0.000055, 0.009393, 0.034449, 0.120228}},
                                {"Student t of 2 degrees",
                                 FillStudentOfTwoDegrees,
                                 {0.000041, 0.008783, 0.032077, 0.110933},
                                 {0.000047, 0.008889, 0.032472, 0.112338}},
                                {"four channels times 30",
                                 FillWithFourLoudChannels,
                                 {0.000027, 0.008223, 0.029963, 0.088339},
                                 {0.000034, 0.008360, 0.030097, 0.094697}},
                                {"a channel plus 100",
                                 FillWithOneOffset,
                                 {0.000011, 0.007588, 0.035549, 0.136968},
                                 {0.000014, 0.007620, 0.029759, 0.118770}},
                                {"around 1",
                                 FillAroundOne,
                                 {0.000046, 0.008550, 0.033410, 0.106437},
                                 {0.000054, 0.009262, 0.037246, 0.129617}},
                                {"sine waves",
                                 FillWithSineWave,
                                 {0.000045, 0.008968, 0.033076, 0.116948},
                                 {0.000053, 0.009268, 0.034195, 0.120257}}};

TEST(KvRowErrorTest, OtherFamiliesAreWithinFivePercentOfTheFigures) {
  for (const Family& family : kFamilies) {
    for (const int dim : {256, 512}) {
      const std::array<Errors, 4> errors = MeasureErrors(dim, family.fill);
      const double* want = dim == 256 ? family.want_256 : family.want_512;
      for (int f = 0; f < 4; ++f) {
        EXPECT_NEAR(errors[f].Mean(), want[f], 0.05 * want[f])
            << family.name << ", " << NameOf(kScaledFormats[f]) << ", dim " << dim;
      }
    }
  }
}

TEST(KvRowErrorTest, InnerProductsHaveThePublishedSlopeAndVarianceAndNoBias) {
  constexpr int kDim = 256;
  const double slopes[] = {0.9953, 0.9828, 0.940}, errors[] = {0.009348, 0.034337, 0.119998};
  for (int f = 0; f < 3; ++f) {
    SCOPED_TRACE(NameOf(kTurboFormats[f]));
    Random random(f);
    double slope = 0.0, sum = 0.0, squares = 0.0, lowest_cosine = 1.0;
    std::vector<float> q(kDim), k(kDim);
    StoredRow stored(kTurboFormats[f], kDim);
    for (int i = 0; i < kRows; ++i) {
      FillNormal(random, q);
      FillNormal(random, k);
      stored.Encode(BestEncoder(), k);
      const std::vector<float> restored = stored.Restored();
      const double along = Dot(restored, k), norm = Norm(k);
      slope += along / (norm * norm);
      lowest_cosine = std::min(lowest_cosine, along / (norm * Norm(restored)));
      const double error = (Dot(q, restored) - Dot(q, k)) / (Norm(q) * norm);
      sum += error;
      squares += error * error;
    }
    const double variance = squares / kRows;
    EXPECT_NEAR(slope / kRows, slopes[f], 0.001);
    EXPECT_LE(std::fabs(sum / kRows), 4 * std::sqrt(variance / kRows));
    EXPECT_NEAR(variance * kDim, errors[f], 0.04 * errors[f]);
    EXPECT_GE(lowest_cosine, f == 0 ? 0.98 : f == 1 ? 0.96 : 0.90);
  }
}

TEST(KvRowErrorTest, NormsAreKept) {
  for (const KvFormat format : kScaledFormats) {
    for (const int dim : kScaledDims) {
      // The norm of kQ8 is not matched: its error is an average over the coordinates.
      const double tolerance =
          format == KvFormat::kQ8 ? 2e-3 * std::sqrt(std::max(1.0, 256.0 / dim)) : 6e-4;
      StoredRow stored(format, dim);
      for (int seed = 0; seed < 500; ++seed) {
        const std::vector<float> x = RandomFloats(dim, seed, std::ldexp(1.0f, seed % 20 - 8));
        stored.Encode(BestEncoder(), x);
        ASSERT_NEAR(Norm(stored.Restored()) / Norm(x), 1.0, tolerance)
            << NameOf(format) << " dim " << dim << " seed " << seed;
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
