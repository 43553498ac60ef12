// Right kernels give right results, the same bits in every schedule and on any number of OS
// threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/emu/kernel_stream.h"
#include "tests/emu/sample_kernels.h"
#include "tests/emu/schedules.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

using testing::ElementsAreArray;

TEST(SampleKernelsTest, RowSumsEqualTheReferenceInEverySchedule) {
  for (const int dim : {1, 31, 256, 1000}) {
    const int rows = 5;
    const std::vector<float> x = RandomFloats(static_cast<size_t>(rows) * dim, 1);
    std::vector<std::vector<float>> results;
    for (const emu::Schedule& schedule : AllSchedules()) {
      KernelStream stream(schedule, /*os_threads=*/2);
      std::vector<float> sums(rows, -1.0f);
      K_WORLD::RowSums(x.data(), sums.data(), rows, dim, stream.get());
      ASSERT_EQ(stream.TakeError(), "");
      for (int r = 0; r < rows; ++r) {
        double want = 0.0, magnitude = 0.0;
        for (int d = 0; d < dim; ++d) {
          want += x[r * dim + d];
          magnitude += std::abs(x[r * dim + d]);
        }
        EXPECT_NEAR(sums[r], want, 1e-6 * magnitude);
      }
      results.push_back(sums);
    }
    EXPECT_THAT(results[1], ElementsAreArray(results[0]));
    EXPECT_THAT(results[2], ElementsAreArray(results[0]));
  }
}

TEST(SampleKernelsTest, TransposeMovesEveryElementOfAwkwardSizes) {
  for (const auto& [rows, columns] : {std::pair{1, 1}, {7, 65}, {33, 32}, {64, 31}}) {
    const std::vector<float> x = RandomFloats(static_cast<size_t>(rows) * columns, 2);
    for (const emu::Schedule& schedule : AllSchedules()) {
      KernelStream stream(schedule);
      std::vector<float> y(x.size(), -1.0f);
      K_WORLD::Transpose(x.data(), y.data(), rows, columns, stream.get());
      ASSERT_EQ(stream.TakeError(), "");
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) EXPECT_EQ(y[c * rows + r], x[r * columns + c]);
      }
    }
  }
}

TEST(SampleKernelsTest, TileProductEqualsTheReferenceInEverySchedule) {
  // Given two row tiles, one column tile and three steps of K: both buffers are used again.
  const int m = 128, n = 64, k = 96;
  std::vector<Bf16> a, b;
  for (const float v : RandomFloats(m * k, 3)) a.push_back(ToBf16(v));
  for (const float v : RandomFloats(k * n, 4)) b.push_back(ToBf16(v));
  std::vector<std::vector<float>> results;
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    std::vector<float> c(m * n, -1.0f);
    K_WORLD::MatMul(a.data(), b.data(), c.data(), m, n, k, stream.get());
    ASSERT_EQ(stream.TakeError(), "");
    results.push_back(c);
  }
  double error = 0.0, norm = 0.0;
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      double want = 0.0;
      for (int q = 0; q < k; ++q) want += double{ToFloat(a[i * k + q])} * ToFloat(b[q * n + j]);
      error += std::pow(results[0][i * n + j] - want, 2);
      norm += want * want;
    }
  }
  EXPECT_LE(std::sqrt(error / norm), 1e-6);
  EXPECT_THAT(results[1], ElementsAreArray(results[0]));
  EXPECT_THAT(results[2], ElementsAreArray(results[0]));
}

TEST(SampleKernelsTest, TrafficIsWhatTheKernelAskedFor) {
  if (!kCountsTraffic) GTEST_SKIP() << "only emulation counts bytes";
  const int m = 64, n = 128, k = 64;
  const std::vector<Bf16> a(m * k), b(k * n);
  std::vector<float> c(m * n);
  KernelStream stream({}, /*os_threads=*/2);
  K_WORLD::MatMul(a.data(), b.data(), c.data(), m, n, k, stream.get());
  const emu::TrafficBytes traffic = stream.TakeTraffic();
  // Two blocks read all of A and half of B each, two bytes a value; C is written once.
  EXPECT_EQ(traffic.read, 2u * (2 * m * k + k * n));
  EXPECT_EQ(traffic.written, 4u * m * n);
  EXPECT_EQ(stream.TakeTraffic().read, 0u);
}

}  // namespace
}  // namespace tandem::kernels
