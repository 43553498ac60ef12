// Chosen clusters: the bits of the linear layer with each of them.
#include "kernels/cuda/w_linear_clusters.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/w_linear.h"
#include "tests/emu/bf16_rows.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

struct Case {
  int rows;
  int in;
  int cluster_rows;
  int chosen;
};

constexpr int kClusters = 11;

struct Problem {
  int rows;
  int in;
  int cluster_rows;
  int chosen;
  int64_t cluster_elements;
  DeviceVector<Bf16> x;
  DeviceVector<Bf16> w;
  DeviceVector<int32_t> ids;

  int y_stride() const { return chosen * cluster_rows + 3; }
};

Problem RandomProblem(const Case& c) {
  // Clusters need not follow one another closely.
  const int64_t cluster_elements = int64_t{c.cluster_rows} * c.in + 16;
  const std::vector<Bf16> x = RandomBf16(static_cast<size_t>(c.rows) * c.in, 1);
  const std::vector<Bf16> w = RandomBf16(kClusters * cluster_elements, 2);
  Problem p = {c.rows,
               c.in,
               c.cluster_rows,
               c.chosen,
               cluster_elements,
               {x.begin(), x.end()},
               {w.begin(), w.end()},
               {}};
  std::mt19937 random(3);
  for (int i = 0; i < c.rows * c.chosen; ++i) {
    p.ids.push_back(static_cast<int32_t>(random() % kClusters));
  }
  return p;
}

std::vector<float> Multiply(const Problem& p, KernelStream* stream) {
  DeviceVector<float> y(static_cast<size_t>(p.rows) * p.y_stride(), 77.0f);
  K_WORLD::WLinearClusters({.x = p.x.data(),
                            .x_stride = p.in,
                            .w = p.w.data(),
                            .cluster_elements = p.cluster_elements,
                            .ids = p.ids.data(),
                            .chosen = p.chosen,
                            .y = y.data(),
                            .y_stride = p.y_stride(),
                            .rows = p.rows,
                            .in = p.in,
                            .cluster_rows = p.cluster_rows},
                           stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return {y.begin(), y.end()};
}

class WLinearClustersTest : public testing::TestWithParam<Case> {};

TEST_P(WLinearClustersTest, HasTheBitsOfTheLinearLayerWithEachClusterInEverySchedule) {
  const Problem p = RandomProblem(GetParam());
  std::vector<float> want(static_cast<size_t>(p.rows) * p.y_stride(), 77.0f);
  KernelStream plain;
  for (int t = 0; t < p.rows; ++t) {
    for (int j = 0; j < p.chosen; ++j) {
      K_WORLD::WLinear({.x = p.x.data() + t * p.in,
                        .x_stride = p.in,
                        .w = p.w.data() + p.ids[t * p.chosen + j] * p.cluster_elements,
                        .y_f32 = want.data() + t * p.y_stride() + j * p.cluster_rows,
                        .y_stride = p.cluster_rows,
                        .rows = 1,
                        .in = p.in,
                        .out = p.cluster_rows},
                       plain.get());
    }
  }
  ASSERT_EQ(plain.TakeError(), "");
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    EXPECT_TRUE(SameBits(Multiply(p, &stream), want));
  }
}

// Clusters of the golden checkpoints (16 and 12 rows of 64 and 32) and of published drafters.
INSTANTIATE_TEST_SUITE_P(Shapes, WLinearClustersTest,
                         testing::Values(Case{1, 64, 16, 8}, Case{3, 32, 12, 5},
                                         Case{2, 256, 128, 3}, Case{5, 72, 33, 1}),
                         [](const testing::TestParamInfo<Case>& info) {
                           return std::to_string(info.param.rows) + "x" +
                                  std::to_string(info.param.in) + "to" +
                                  std::to_string(info.param.chosen) + "x" +
                                  std::to_string(info.param.cluster_rows);
                         });

TEST(WLinearClustersTrafficTest, MovesTheBytesOfItsFormula) {
  if (!kCountsTraffic) GTEST_SKIP() << "a device does not count its traffic";
  const Problem p = RandomProblem({3, 512, 40, 4});
  KernelStream stream;
  Multiply(p, &stream);
  const uint64_t pairs = 3 * 4, blocks = 2 * pairs;
  const emu::TrafficBytes traffic = stream.TakeTraffic();
  EXPECT_EQ(traffic.read, 2u * 512 * 40 * pairs + (2u * 512 + 4 * 256) * blocks);
  EXPECT_EQ(traffic.written, 4u * 40 * pairs);
}

TEST(WLinearClustersShapesTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::WLinearClusters({.chosen = 8, .in = 64, .cluster_rows = 16}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
