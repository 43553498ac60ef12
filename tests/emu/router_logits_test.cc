// The router's product, against sums in f64.
#include "kernels/cuda/router_logits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/emu/bf16_rows.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

// kernels.md 11.
constexpr double kLinearTolerance = 1e-6;

struct Problem {
  int rows;
  int in;
  int experts;
  int x_stride;
  DeviceVector<float> x;
  DeviceVector<Bf16> w;
};

Problem RandomProblem(int rows, int in, int experts, int x_padding = 0) {
  const int x_stride = in + x_padding;
  const std::vector<float> x = RandomFloats(static_cast<size_t>(rows) * x_stride, 1);
  const std::vector<Bf16> w =
      RandomBf16(static_cast<size_t>(experts) * in, 2, 1.0f / std::sqrt(static_cast<float>(in)));
  return {rows, in, experts, x_stride, {x.begin(), x.end()}, {w.begin(), w.end()}};
}

std::vector<float> Multiply(const Problem& p, KernelStream* stream) {
  DeviceVector<float> y(static_cast<size_t>(p.rows) * p.experts, 77.0f);
  K_WORLD::RouterLogits({.x = p.x.data(),
                         .x_stride = p.x_stride,
                         .w = p.w.data(),
                         .y = y.data(),
                         .rows = p.rows,
                         .in = p.in,
                         .experts = p.experts},
                        stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return {y.begin(), y.end()};
}

struct Case {
  int rows;
  int in;
  int experts;
};

class RouterLogitsTest : public testing::TestWithParam<Case> {};

TEST_P(RouterLogitsTest, EqualsTheSumsOfUnroundedRowsInEverySchedule) {
  const auto [rows, in, experts] = GetParam();
  const Problem p = RandomProblem(rows, in, experts, /*x_padding=*/4);
  std::vector<float> want;
  for (int t = 0; t < rows; ++t) {
    for (int e = 0; e < experts; ++e) {
      double sum = 0.0;
      for (int k = 0; k < in; ++k)
        sum += double{ToFloat(p.w[e * in + k])} * p.x[t * p.x_stride + k];
      want.push_back(static_cast<float>(sum));
    }
  }
  std::vector<std::vector<float>> results;
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    results.push_back(Multiply(p, &stream));
    EXPECT_TRUE(SameBits(results.back(), results[0]));
  }
  EXPECT_LE(RelativeError(results[0], want), kLinearTolerance);
}

// Both tiles; lanes without a value, experts and rows that fill no block.
INSTANTIATE_TEST_SUITE_P(Shapes, RouterLogitsTest,
                         testing::Values(Case{1, 64, 8}, Case{1, 2816, 128}, Case{5, 264, 9},
                                         Case{32, 8, 1}, Case{33, 520, 35}, Case{70, 96, 8}),
                         [](const testing::TestParamInfo<Case>& info) {
                           return std::to_string(info.param.rows) + "x" +
                                  std::to_string(info.param.in) + "to" +
                                  std::to_string(info.param.experts);
                         });

TEST(RouterLogitsInvarianceTest, ARowsBitsDoNotDependOnTheNumberOfRowsOrOnNeighbours) {
  const int max_rows = 40, in = 328, experts = 10;
  Problem all = RandomProblem(max_rows, in, experts);
  KernelStream stream;
  const std::vector<float> many = Multiply(all, &stream);
  Problem few = all;
  few.rows = 32;
  EXPECT_TRUE(SameBits(Multiply(few, &stream), {many.begin(), many.begin() + 32 * experts}));
  for (int k = 0; k < in; ++k) all.x[4 * in + k] = NAN;
  std::vector<float> after = Multiply(all, &stream);
  EXPECT_TRUE(std::isnan(after[4 * experts]));
  std::copy_n(many.begin() + 4 * experts, experts, after.begin() + 4 * experts);
  EXPECT_TRUE(SameBits(after, many));
}

TEST(RouterLogitsTrafficTest, MovesTheBytesOfItsFormula) {
  for (const auto& [rows, in, experts] : {Case{3, 264, 9}, Case{34, 264, 9}}) {
    if (!kCountsTraffic) continue;
    const Problem p = RandomProblem(rows, in, experts);
    KernelStream stream;
    Multiply(p, &stream);
    const uint64_t tile = rows <= 32 ? 1 : 4;
    const emu::TrafficBytes traffic = stream.TakeTraffic();
    const auto tiles = [tile](uint64_t count) { return (count + tile - 1) / tile; };
    EXPECT_EQ(traffic.read, 4u * in * rows * tiles(experts) + 2u * in * experts * tiles(rows));
    EXPECT_EQ(traffic.written, 4u * rows * experts);
  }
}

TEST(RouterLogitsShapesTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::RouterLogits({.in = 64, .experts = 8}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
