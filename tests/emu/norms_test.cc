// The CUDA norm under emulation against the reference.
#include "kernels/cuda/norms.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/reference/row_ops_ref.h"
#include "tests/emu/bf16_rows.h"
#include "tests/emu/schedules.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

std::vector<Bf16> Norm(const std::vector<Bf16>& x, const std::vector<Bf16>& weight, int rows,
                       int dim, emu::Stream* stream) {
  std::vector<Bf16> y(x.size());
  cuda_emu::NormRows({.x = x.data(),
                      .weight = weight.empty() ? nullptr : weight.data(),
                      .y = y.data(),
                      .rows = rows,
                      .dim = dim,
                      .eps = 1e-6f},
                     stream);
  return y;
}

struct Case {
  int rows;
  int dim;
  bool weight;
};

class NormRowsTest : public testing::TestWithParam<Case> {};

TEST_P(NormRowsTest, EqualsTheReferenceWithTheSameBitsInEverySchedule) {
  const auto [rows, dim, weighted] = GetParam();
  const std::vector<Bf16> x = RandomBf16(static_cast<size_t>(rows) * dim, 1, 3.0f);
  const std::vector<Bf16> weight = weighted ? RandomBf16(dim, 2) : std::vector<Bf16>();
  const std::vector<float> wide_x = Widened(x), wide_weight = Widened(weight);
  std::vector<float> want(x.size());
  RmsNormReference({.x = wide_x.data(),
                    .weight = weighted ? wide_weight.data() : nullptr,
                    .y = want.data(),
                    .rows = rows,
                    .dim = dim,
                    .eps = 1e-6f});
  std::vector<std::vector<Bf16>> results;
  for (const emu::Schedule& schedule : AllSchedules()) {
    emu::Stream stream(schedule, /*os_threads=*/2);
    results.push_back(Norm(x, weight, rows, dim, &stream));
    ASSERT_EQ(stream.TakeError(), "");
  }
  for (size_t i = 0; i < x.size(); ++i) {
    // Half a unit of bf16's last place, and what the f32 arithmetic before it may add.
    ASSERT_NEAR(ToFloat(results[0][i]), want[i], std::abs(want[i]) * 0x1.01p-8f) << i;
  }
  EXPECT_TRUE(SameBits(results[1], results[0]));
  EXPECT_TRUE(SameBits(results[2], results[0]));
}

// One vector, part of a warp, one past the first pass, and the models' widths.
INSTANTIATE_TEST_SUITE_P(Shapes, NormRowsTest,
                         testing::Values(Case{1, 8, true}, Case{3, 264, false}, Case{2, 2048, true},
                                         Case{1, 2056, true}, Case{1, 4104, false},
                                         Case{2, 5376, true}, Case{1, 6144, true}),
                         [](const testing::TestParamInfo<Case>& info) {
                           return std::to_string(info.param.rows) + "x" +
                                  std::to_string(info.param.dim);
                         });

TEST(NormRowsShapesTest, ARowsBitsDoNotDependOnItsNeighbours) {
  const int rows = 3, dim = 1536;
  const std::vector<Bf16> x = RandomBf16(rows * dim, 3);
  const std::vector<Bf16> weight = RandomBf16(dim, 4);
  emu::Stream stream;
  const std::vector<Bf16> together = Norm(x, weight, rows, dim, &stream);
  const std::vector<Bf16> last(x.begin() + 2 * dim, x.end());
  const std::vector<Bf16> alone = Norm(last, weight, 1, dim, &stream);
  EXPECT_TRUE(SameBits(alone, {together.begin() + 2 * dim, together.end()}));
}

TEST(NormRowsShapesTest, MovesTheBytesOfItsFormula) {
  const int rows = 4, dim = 5376;
  const std::vector<Bf16> x(rows * dim), weight(dim);
  emu::Stream stream;
  Norm(x, weight, rows, dim, &stream);
  const emu::TrafficBytes traffic = stream.TakeTraffic();
  EXPECT_EQ(traffic.read, 4u * rows * dim);
  EXPECT_EQ(traffic.written, 2u * rows * dim);
}

TEST(NormRowsShapesTest, WidthsWithoutAKernelAreTold) {
  for (const int dim : {8, 1536, 5376, 6144}) EXPECT_TRUE(cuda_emu::NormRowsSupports(dim)) << dim;
  for (const int dim : {0, -8, 4, 1540, 6152}) EXPECT_FALSE(cuda_emu::NormRowsSupports(dim)) << dim;
}

TEST(NormRowsShapesTest, NoRowsAreNoWork) {
  emu::Stream stream;
  cuda_emu::NormRows({.dim = 1536}, &stream);
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
