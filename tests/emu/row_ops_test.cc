// Embeddings, per-layer inputs, gelu * mul, rounding and soft-cap on CUDA.
#include "kernels/cuda/row_ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/row_ops_ref.h"
#include "tests/emu/bf16_rows.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

constexpr double kBf16Tolerance = 4e-3;  // kernels.md 11

TEST(EmbedKernelTest, GivesScaledRowsOfTheTableInEverySchedule) {
  for (const int dim : {8, 96, 2048, 2056}) {
    const int vocab = 7, rows = 5, stride = 2 * dim;
    const float scale = ToFloat(ToBf16(std::sqrt(static_cast<float>(dim))));
    const DeviceVector<Bf16> table = OnDevice(RandomBf16(vocab * dim, dim));
    const DeviceVector<int32_t> ids = {6, 0, 3, 3, 1};
    for (const emu::Schedule& schedule : AllSchedules()) {
      KernelStream stream(schedule, /*os_threads=*/2);
      DeviceVector<float> out(rows * dim);
      DeviceVector<Bf16> rounded(rows * stride, Bf16{77});
      K_WORLD::EmbedArgs args = {.table = table.data(),
                                 .ids = ids.data(),
                                 .scale = scale,
                                 .out_f32 = out.data(),
                                 .out_stride = dim,
                                 .rows = rows,
                                 .dim = dim};
      K_WORLD::Embed(args, stream.get());
      args.out_f32 = nullptr;
      args.out = rounded.data();
      args.out_stride = stride;
      K_WORLD::Embed(args, stream.get());
      ASSERT_EQ(stream.TakeError(), "");
      for (int t = 0; t < rows; ++t) {
        for (int d = 0; d < dim; ++d) {
          const float want = ToFloat(table[ids[t] * dim + d]) * scale;
          ASSERT_EQ(out[t * dim + d], want) << t << " " << d;
          ASSERT_EQ(rounded[t * stride + d].bits, ToBf16(want).bits) << t << " " << d;
          // What lies between the rows is somebody else's.
          ASSERT_EQ(rounded[t * stride + dim + d].bits, 77) << t << " " << d;
        }
      }
    }
  }
}

struct PleProblem {
  PleProblem(int rows, int layers, int width)
      : rows(rows),
        layers(layers),
        width(width),
        table(OnDevice(RandomBf16(size_t(rows) * layers * width, 1))),
        ctx(OnDevice(RandomFloats(table.size(), 2, 5.0f))),
        norm(OnDevice(RandomFloats(width, 3))) {}

  K_WORLD::PleArgs Args(DeviceVector<float>* out) const {
    return {.rows_of_table = table.data(),
            .ctx = out->data(),
            .norm = norm.data(),
            .rows = rows,
            .layers = layers,
            .width = width,
            .ctx_scale = 0.0255f,
            .table_scale = 16.0f,
            .out_scale = std::sqrt(0.5f),
            .eps = 1e-6f};
  }

  int rows, layers, width;
  DeviceVector<Bf16> table;
  DeviceVector<float> ctx, norm;
};

TEST(PleKernelTest, EqualsTheReferenceWithTheSameBitsInEverySchedule) {
  for (const int width : {8, 32, 64, 136, 256}) {
    const PleProblem p(3, 5, width);
    std::vector<float> want(p.ctx.begin(), p.ctx.end());
    const std::vector<int32_t> ids = {0, 1, 2};
    PleReference({.ids = ids,
                  .table = p.table.data(),
                  .table_rows = p.rows,
                  .norm = p.norm.data(),
                  .ctx = want.data(),
                  .layers = p.layers,
                  .width = width,
                  .ctx_scale = 0.0255f,
                  .table_scale = 16.0f,
                  .out_scale = std::sqrt(0.5f),
                  .eps = 1e-6f});
    std::vector<DeviceVector<float>> results;
    for (const emu::Schedule& schedule : AllSchedules()) {
      KernelStream stream(schedule, /*os_threads=*/2);
      K_WORLD::Ple(p.Args(&results.emplace_back(p.ctx)), stream.get());
      ASSERT_EQ(stream.TakeError(), "");
    }
    EXPECT_LE(RelativeError(results[0], want), kFloatTolerance) << width;
    EXPECT_TRUE(SameBits(results[1], results[0])) << width;
    EXPECT_TRUE(SameBits(results[2], results[0])) << width;
  }
}

TEST(PleKernelTest, ARowsBitsDoNotDependOnItsNeighbours) {
  const PleProblem p(3, 2, 256);
  const int last = 2 * p.layers * p.width;
  DeviceVector<float> together = p.ctx, alone(p.ctx.begin() + last, p.ctx.end());
  KernelStream stream;
  K_WORLD::Ple(p.Args(&together), stream.get());
  K_WORLD::PleArgs args = p.Args(&alone);
  args.rows = 1;
  args.rows_of_table += last;
  K_WORLD::Ple(args, stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  EXPECT_TRUE(SameBits(alone, {together.begin() + last, together.end()}));
}

TEST(PleKernelTest, WidthsWithoutAKernelAreTold) {
  for (const int width : {8, 32, 64, 256}) EXPECT_TRUE(K_WORLD::PleSupports(width)) << width;
  for (const int width : {0, -8, 12, 264}) EXPECT_FALSE(K_WORLD::PleSupports(width)) << width;
}

TEST(GeluMulKernelTest, EqualsTheReferenceAndLeavesWhatLiesBetweenRows) {
  const int rows = 3, dim = 264, a_stride = dim, b_stride = 3 * dim, y_stride = dim + 8;
  const DeviceVector<float> a = OnDevice(RandomFloats(rows * a_stride, 1, 3.0f));
  const DeviceVector<float> b = OnDevice(RandomFloats(rows * b_stride, 2));
  std::vector<float> want(rows * y_stride);
  GeluMulReference({.a = a.data(),
                    .a_stride = a_stride,
                    .b = b.data(),
                    .b_stride = b_stride,
                    .y = want.data(),
                    .y_stride = y_stride,
                    .rows = rows,
                    .dim = dim});
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    DeviceVector<Bf16> y(rows * y_stride);
    K_WORLD::GeluMul({.a = a.data(),
                      .a_stride = a_stride,
                      .b = b.data(),
                      .b_stride = b_stride,
                      .y = y.data(),
                      .y_stride = y_stride,
                      .rows = rows,
                      .dim = dim},
                     stream.get());
    ASSERT_EQ(stream.TakeError(), "");
    std::vector<float> got;
    for (const Bf16 v : y) got.push_back(ToFloat(v));
    EXPECT_LE(RelativeError(got, want), kBf16Tolerance);
    for (int t = 0; t < rows; ++t) {
      for (int d = dim; d < y_stride; ++d) EXPECT_EQ(y[t * y_stride + d].bits, 0);
    }
  }
}

TEST(RoundRowsKernelTest, RoundsToNearestEven) {
  const int rows = 3, dim = 72, x_stride = 80, y_stride = 2 * dim;
  DeviceVector<float> x = OnDevice(RandomFloats(rows * x_stride, 1));
  x[1] = 0x1.01p0f;  // a tie
  x[2] = 0x1.03p0f;
  x[3] = std::numeric_limits<float>::infinity();
  KernelStream stream;
  DeviceVector<Bf16> y(rows * y_stride);
  K_WORLD::RoundRows({.x = x.data(),
                      .x_stride = x_stride,
                      .y = y.data(),
                      .y_stride = y_stride,
                      .rows = rows,
                      .dim = dim},
                     stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  for (int t = 0; t < rows; ++t) {
    for (int d = 0; d < y_stride; ++d) {
      const uint16_t want = d < dim ? ToBf16(x[t * x_stride + d]).bits : 0;
      ASSERT_EQ(y[t * y_stride + d].bits, want) << t << " " << d;
    }
  }
}

TEST(SoftcapKernelTest, EqualsTheReferenceForAnyCountAndLeavesWhatIsBehind) {
  for (const int count : {1, 3, 4, 1000, 1025}) {
    const float cap = 30.0f, behind = 1000.0f;
    std::vector<float> want = RandomFloats(count, count, 40.0f);
    DeviceVector<float> x = OnDevice(want);
    x.resize(count + 4, behind);
    SoftcapReference({.x = want.data(), .count = count, .cap = cap});
    want.resize(count + 4, behind);
    KernelStream stream;
    K_WORLD::Softcap({.x = x.data(), .count = count, .cap = cap}, stream.get());
    ASSERT_EQ(stream.TakeError(), "");
    for (int i = 0; i < count + 4; ++i) {
      EXPECT_NEAR(x[i], want[i], 1e-6f * std::abs(want[i])) << i << " of " << count;
    }
  }
}

TEST(RowOpsTest, MoveTheBytesOfTheirFormulas) {
  const int rows = 4, dim = 2048;
  const uint64_t values = uint64_t{rows} * dim, threads = values / 8;
  const DeviceVector<Bf16> table(3 * dim);
  const DeviceVector<int32_t> ids = {2, 0, 1, 1};
  DeviceVector<float> a(values), b(values);
  DeviceVector<Bf16> y(values);
  KernelStream stream;
  const auto expect = [&](uint64_t read, uint64_t written) {
    EXPECT_EQ(stream.TakeError(), "");
    const emu::TrafficBytes traffic = stream.TakeTraffic();
    if (kCountsTraffic) {
      EXPECT_EQ(traffic.read, read);
      EXPECT_EQ(traffic.written, written);
    }
  };
  K_WORLD::EmbedArgs embed = {.table = table.data(),
                              .ids = ids.data(),
                              .out_f32 = a.data(),
                              .out_stride = dim,
                              .rows = rows,
                              .dim = dim};
  K_WORLD::Embed(embed, stream.get());
  expect(2 * values + 4 * threads, 4 * values);
  embed.out = y.data();
  K_WORLD::Embed(embed, stream.get());
  expect(2 * values + 4 * threads, 2 * values);
  K_WORLD::GeluMul({a.data(), dim, b.data(), dim, y.data(), dim, rows, dim}, stream.get());
  expect(8 * values, 2 * values);
  K_WORLD::RoundRows({a.data(), dim, y.data(), dim, rows, dim}, stream.get());
  expect(4 * values, 2 * values);
  K_WORLD::Softcap({a.data(), static_cast<int64_t>(values), 30.0f}, stream.get());
  expect(4 * values, 4 * values);
  const PleProblem p(2, 3, 256);
  DeviceVector<float> ctx = p.ctx;
  K_WORLD::Ple(p.Args(&ctx), stream.get());
  expect(10 * p.ctx.size(), 4 * p.ctx.size());
}

TEST(RowOpsTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::Embed({.dim = 64}, stream.get());
  K_WORLD::Ple({.layers = 2, .width = 64}, stream.get());
  K_WORLD::GeluMul({.dim = 64}, stream.get());
  K_WORLD::RoundRows({.dim = 64}, stream.get());
  K_WORLD::Softcap({.cap = 30.0f}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
