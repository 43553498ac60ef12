// Choosing clusters under emulation, against the host's drafter.
#include "kernels/cuda/choose_clusters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "engine/draft_choice.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

using ::testing::ElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Chosen {
  DeviceVector<int32_t> ids, finite;
  bool operator==(const Chosen&) const = default;
};

// scores [rows, stride]
Chosen Choose(const DeviceVector<float>& scores, int64_t stride, int clusters, int chosen,
              KernelStream* stream) {
  const int rows = static_cast<int>(scores.size() / stride);
  Chosen result = {DeviceVector<int32_t>(rows * chosen, -7), DeviceVector<int32_t>(rows, -7)};
  K_WORLD::ChooseClusters({.scores = scores.data(),
                           .stride = stride,
                           .rows = rows,
                           .clusters = clusters,
                           .chosen = chosen,
                           .ids = result.ids.data(),
                           .finite = result.finite.data()},
                          stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return result;
}

Chosen ChooseOnHost(const DeviceVector<float>& scores, int64_t stride, int clusters, int chosen) {
  const int rows = static_cast<int>(scores.size() / stride);
  Chosen result = {DeviceVector<int32_t>(rows * chosen), DeviceVector<int32_t>(rows)};
  engine::ChoiceScratch scratch;
  for (int row = 0; row < rows; ++row) {
    result.finite[row] =
        engine::ChooseClusters(std::span(scores).subspan(row * stride, clusters),
                               std::span(result.ids).subspan(row * chosen, chosen), scratch);
  }
  return result;
}

struct Case {
  int rows;
  int clusters;
  int chosen;
};

class ChooseClustersTest : public testing::TestWithParam<Case> {};

TEST_P(ChooseClustersTest, ChoosesWhatTheHostChoosesInEverySchedule) {
  // Given scores, in every other row with many equal ones, and rows that can not be used.
  const auto [rows, clusters, chosen] = GetParam();
  const int64_t stride = clusters + 3;
  std::mt19937 random(clusters + chosen);
  std::normal_distribution<float> normal;
  DeviceVector<float> scores(rows * stride, NAN);
  for (int row = 0; row < rows; ++row) {
    float* const s = scores.data() + row * stride;
    for (int c = 0; c < clusters; ++c) s[c] = normal(random);
    for (int c = 0; c < clusters && row % 2 == 1; ++c) s[c] = std::round(4.0f * s[c]);
    if (row % 8 == 4) s[clusters - 1] = NAN;
    if (row % 8 == 5) s[clusters / 2] = kInf;
    // One more or one less than are wanted.
    for (int c = chosen - 1 + row % 2; c < clusters && row % 8 >= 6; ++c) s[c] = -kInf;
  }
  const Chosen want = ChooseOnHost(scores, stride, clusters, chosen);
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    EXPECT_EQ(Choose(scores, stride, clusters, chosen, &stream), want);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ChooseClustersTest,
                         testing::Values(Case{8, 2048, 32}, Case{8, 16, 4}, Case{8, 33, 33},
                                         Case{9, 1, 1}, Case{8, 4096, 1}, Case{8, 500, 300}),
                         [](const testing::TestParamInfo<Case>& info) {
                           return std::to_string(info.param.chosen) + "of" +
                                  std::to_string(info.param.clusters);
                         });

TEST(ChooseClustersRowTest, EqualScoresGoToTheLowerClusterAndIdsRise) {
  DeviceVector<float> scores(2048, -3.0f);
  for (const int c : {2047, 1500, 64, 63}) scores[c] = 1.0f;
  scores[1000] = 2.0f;
  KernelStream stream;
  const Chosen chosen = Choose(scores, 2048, 2048, 4, &stream);
  EXPECT_THAT(chosen.ids, ElementsAre(63, 64, 1000, 1500));
  EXPECT_THAT(chosen.finite, ElementsAre(1));
}

TEST(ChooseClustersRowTest, ABrokenRowGetsTheFirstClustersAndHarmsNoOther) {
  DeviceVector<float> scores(3 * 100, 0.0f);
  for (const int row : {0, 1, 2}) scores[row * 100 + 50 + row] = 1.0f;
  scores[100] = NAN;
  KernelStream stream;
  const Chosen chosen = Choose(scores, 100, 100, 2, &stream);
  EXPECT_THAT(chosen.ids, ElementsAre(0, 50, 0, 1, 0, 52));
  EXPECT_THAT(chosen.finite, ElementsAre(1, 0, 1));
}

TEST(ChooseClustersRowTest, MovesTheBytesOfItsFormula) {
  if (!kCountsTraffic) return;
  const DeviceVector<float> scores(2 * 2048);
  KernelStream stream;
  Choose(scores, 2048, 2048, 32, &stream);
  const emu::TrafficBytes traffic = stream.TakeTraffic();
  EXPECT_EQ(traffic.read, 2u * 4 * 2048);
  EXPECT_EQ(traffic.written, 2u * (4 * 32 + 4));
}

TEST(ChooseClustersRowTest, HeadsWithoutAKernelAreToldAndNoRowsAreNoWork) {
  EXPECT_TRUE(K_WORLD::ChooseClustersSupports(2048, 32));
  EXPECT_TRUE(K_WORLD::ChooseClustersSupports(4096, 4096));
  EXPECT_FALSE(K_WORLD::ChooseClustersSupports(4097, 32));
  EXPECT_FALSE(K_WORLD::ChooseClustersSupports(16, 17));
  EXPECT_FALSE(K_WORLD::ChooseClustersSupports(16, 0));
  KernelStream stream;
  K_WORLD::ChooseClusters({.clusters = 16, .chosen = 4}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
