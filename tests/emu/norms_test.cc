// The CUDA norms against the reference.
#include "kernels/cuda/norms.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "kernels/reference/row_ops_ref.h"
#include "tests/emu/bf16_rows.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

constexpr float kEps = 1e-6f;

struct NormShape {
  int rows;
  int dim;
  bool weighted;
};

// Random rows of one shape.
struct NormProblem {
  explicit NormProblem(const NormShape& shape, uint32_t seed = 1)
      : rows(shape.rows),
        dim(shape.dim),
        x(OnDevice(RandomFloats(size_t(rows) * dim, seed, 3.0f))),
        h(OnDevice(RandomFloats(size_t(rows) * dim, seed + 1))),
        weight(OnDevice(RandomFloats(shape.weighted ? dim : 0, seed + 2))) {}

  const float* Weight() const { return weight.empty() ? nullptr : weight.data(); }
  K_WORLD::NormRowsArgs RowsArgs() const {
    return {.x = x.data(), .weight = Weight(), .rows = rows, .dim = dim, .eps = kEps};
  }
  K_WORLD::NormAddArgs AddArgs(DeviceVector<float>* sum, const float* scale) const {
    return {.a = x.data(),
            .weight = weight.data(),
            .h = sum->data(),
            .rows = rows,
            .dim = dim,
            .eps = kEps,
            .scale = scale};
  }

  int rows, dim;
  DeviceVector<float> x, h, weight;
};

class NormTest : public testing::TestWithParam<NormShape> {};

TEST_P(NormTest, RowsEqualTheReferenceWithTheSameBitsInEverySchedule) {
  const NormProblem p(GetParam());
  std::vector<float> want(p.x.size());
  RmsNormReference({.x = p.x.data(),
                    .weight = p.Weight(),
                    .y = want.data(),
                    .rows = p.rows,
                    .dim = p.dim,
                    .eps = kEps,
                    .y_f32 = true});
  std::vector<DeviceVector<float>> results;
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    DeviceVector<float>& y = results.emplace_back(p.x.size());
    DeviceVector<Bf16> rounded(p.x.size());
    K_WORLD::NormRowsArgs args = p.RowsArgs();
    args.y = rounded.data();
    args.y_f32 = y.data();
    K_WORLD::NormRows(args, stream.get());
    ASSERT_EQ(stream.TakeError(), "");
    for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(rounded[i].bits, ToBf16(y[i]).bits) << i;
  }
  EXPECT_LE(RelativeError(results[0], want), kFloatTolerance);
  EXPECT_TRUE(SameBits(results[1], results[0]));
  EXPECT_TRUE(SameBits(results[2], results[0]));
}

TEST_P(NormTest, SumsEqualTheReferenceWithTheSameBitsInEverySchedule) {
  NormShape shape = GetParam();
  shape.weighted = true;
  const NormProblem p(shape);
  for (const DeviceVector<float>& scale : {DeviceVector<float>{0.37f}, DeviceVector<float>()}) {
    const float* const factor = scale.empty() ? nullptr : scale.data();
    std::vector<float> want(p.h.begin(), p.h.end());
    NormAddReference({.a = p.x.data(),
                      .weight = p.weight.data(),
                      .h = want.data(),
                      .rows = p.rows,
                      .dim = p.dim,
                      .eps = kEps,
                      .scale = factor});
    std::vector<DeviceVector<float>> results;
    for (const emu::Schedule& schedule : AllSchedules()) {
      KernelStream stream(schedule, /*os_threads=*/2);
      DeviceVector<float>& h = results.emplace_back(p.h);
      K_WORLD::NormAdd(p.AddArgs(&h, factor), stream.get());
      ASSERT_EQ(stream.TakeError(), "");
    }
    EXPECT_LE(RelativeError(results[0], want), kFloatTolerance);
    EXPECT_TRUE(SameBits(results[1], results[0]));
    EXPECT_TRUE(SameBits(results[2], results[0]));
  }
}

// One vector, golden checkpoints, part of a warp, one past a pass, and the models' widths.
INSTANTIATE_TEST_SUITE_P(Shapes, NormTest,
                         testing::Values(NormShape{1, 8, true}, NormShape{5, 64, true},
                                         NormShape{2, 96, false}, NormShape{3, 264, false},
                                         NormShape{1, 1024, true}, NormShape{2, 1032, true},
                                         NormShape{1, 2056, true}, NormShape{1, 4104, false},
                                         NormShape{2, 5376, true}, NormShape{1, 6144, true}),
                         [](const testing::TestParamInfo<NormShape>& info) {
                           return std::to_string(info.param.rows) + "x" +
                                  std::to_string(info.param.dim);
                         });

TEST(NormShapesTest, RowsMayBeNormedInPlace) {
  NormProblem p({.rows = 3, .dim = 96, .weighted = true});
  DeviceVector<float> want(p.x.size());
  KernelStream stream;
  K_WORLD::NormRowsArgs args = p.RowsArgs();
  args.y_f32 = want.data();
  K_WORLD::NormRows(args, stream.get());
  args.y_f32 = p.x.data();
  K_WORLD::NormRows(args, stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  EXPECT_TRUE(SameBits(p.x, want));
}

TEST(NormShapesTest, ARowsBitsDoNotDependOnItsNeighbours) {
  const NormProblem p({.rows = 3, .dim = 1536, .weighted = true});
  const int last = 2 * p.dim;
  DeviceVector<float> y(p.x.size()), row_y(p.dim), h = p.h, row_h(p.h.begin() + last, p.h.end());
  KernelStream stream;
  K_WORLD::NormRowsArgs rows = p.RowsArgs();
  rows.y_f32 = y.data();
  K_WORLD::NormRows(rows, stream.get());
  K_WORLD::NormAddArgs sums = p.AddArgs(&h, nullptr);
  K_WORLD::NormAdd(sums, stream.get());
  rows.rows = sums.rows = 1;
  rows.x = sums.a = p.x.data() + last;
  rows.y_f32 = row_y.data();
  sums.h = row_h.data();
  K_WORLD::NormRows(rows, stream.get());
  K_WORLD::NormAdd(sums, stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  EXPECT_TRUE(SameBits(row_y, {y.begin() + last, y.end()}));
  EXPECT_TRUE(SameBits(row_h, {h.begin() + last, h.end()}));
}

TEST(NormShapesTest, MoveTheBytesOfTheirFormulas) {
  const NormProblem p({.rows = 4, .dim = 5376, .weighted = true});
  const uint64_t values = p.x.size();
  DeviceVector<Bf16> y(values);
  DeviceVector<float> h = p.h;
  KernelStream stream;
  K_WORLD::NormRowsArgs args = p.RowsArgs();
  args.y = y.data();
  K_WORLD::NormRows(args, stream.get());
  const emu::TrafficBytes rows = stream.TakeTraffic();
  const DeviceVector<float> scale = {0.5f};
  K_WORLD::NormAdd(p.AddArgs(&h, scale.data()), stream.get());
  const emu::TrafficBytes sums = stream.TakeTraffic();
  ASSERT_EQ(stream.TakeError(), "");
  if (kCountsTraffic) {
    EXPECT_EQ(rows.read, 8 * values);
    EXPECT_EQ(rows.written, 2 * values);
    EXPECT_EQ(sums.read, 12 * values + 4u * 256 * p.rows);
    EXPECT_EQ(sums.written, 4 * values);
  }
}

TEST(NormShapesTest, WidthsWithoutAKernelAreTold) {
  for (const int dim : {8, 32, 96, 1536, 5376, 6144}) {
    EXPECT_TRUE(K_WORLD::NormSupports(dim)) << dim;
  }
  for (const int dim : {0, -8, 4, 1540, 6152}) EXPECT_FALSE(K_WORLD::NormSupports(dim)) << dim;
}

TEST(NormShapesTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::NormRows({.dim = 1536}, stream.get());
  K_WORLD::NormAdd({.dim = 1536}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
