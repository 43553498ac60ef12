// Which experts the CUDA kernel chooses, under emulation, against the reference.
#include "kernels/cuda/route.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/reference/row_ops_ref.h"
#include "tests/emu/bf16_rows.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

using testing::ElementsAre;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Problem {
  int rows;
  int experts;
  int top_k;
  DeviceVector<float> logits;
  DeviceVector<float> scale;
};

Problem ProblemOf(int experts, int top_k, const std::vector<float>& logits) {
  const std::vector<float> scale = RandomFloats(experts, 9);
  return {static_cast<int>(logits.size()) / experts,
          experts,
          top_k,
          {logits.begin(), logits.end()},
          {scale.begin(), scale.end()}};
}

struct Choice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

// With a guard behind both arrays.
Choice Chosen(const Problem& p, KernelStream* stream) {
  const size_t pairs = static_cast<size_t>(p.rows) * p.top_k;
  DeviceVector<int32_t> ids(pairs + 1, -77);
  DeviceVector<float> weights(pairs + 1, -77.0f);
  K_WORLD::Route({.logits = p.logits.data(),
                  .rows = p.rows,
                  .experts = p.experts,
                  .top_k = p.top_k,
                  .expert_scale = p.scale.data(),
                  .ids = ids.data(),
                  .weights = weights.data()},
                 stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  EXPECT_EQ(ids.back(), -77);
  EXPECT_EQ(weights.back(), -77.0f);
  return {{ids.begin(), ids.end() - 1}, {weights.begin(), weights.end() - 1}};
}

Choice Reference(const Problem& p) {
  const size_t pairs = static_cast<size_t>(p.rows) * p.top_k;
  Choice choice = {std::vector<int32_t>(pairs), std::vector<float>(pairs)};
  RouteReference({.logits = p.logits.data(),
                  .rows = p.rows,
                  .experts = p.experts,
                  .top_k = p.top_k,
                  .expert_scale = p.scale.data(),
                  .ids = choice.ids.data(),
                  .weights = choice.weights.data()});
  return choice;
}

struct Case {
  int rows;
  int experts;
  int top_k;
  bool ties;
};

class RouteTest : public testing::TestWithParam<Case> {};

TEST_P(RouteTest, EqualsTheReferenceWithTheSameBitsInEverySchedule) {
  const auto [rows, experts, top_k, ties] = GetParam();
  std::vector<float> logits = RandomFloats(static_cast<size_t>(rows) * experts, 1, 2.0f);
  if (ties) {
    for (float& l : logits) l = std::rint(l);
  }
  const Problem p = ProblemOf(experts, top_k, logits);
  const Choice want = Reference(p);
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    const Choice got = Chosen(p, &stream);
    EXPECT_EQ(got.ids, want.ids);
    EXPECT_LE(RelativeError(got.weights, want.weights), kFloatTolerance);
    KernelStream forward;
    EXPECT_TRUE(SameBits(got.weights, Chosen(p, &forward).weights));
  }
}

// One expert, the golden models, part of a block, 26B-A4B, one past a block, the most.
INSTANTIATE_TEST_SUITE_P(Shapes, RouteTest,
                         testing::Values(Case{2, 1, 1, false}, Case{5, 8, 3, true},
                                         Case{3, 40, 32, true}, Case{9, 128, 8, false},
                                         Case{9, 128, 8, true}, Case{4, 129, 5, true},
                                         Case{2, 1024, 32, false}, Case{2, 1024, 32, true}),
                         [](const testing::TestParamInfo<Case>& info) {
                           return std::to_string(info.param.rows) + "rows" +
                                  std::to_string(info.param.top_k) + "of" +
                                  std::to_string(info.param.experts) +
                                  (info.param.ties ? "Ties" : "");
                         });

TEST(RouteRulesTest, EqualLogitsGoToTheLowerExpertAndAreSharedEvenly) {
  Problem p = ProblemOf(5, 2,
                        {1, 3, 3, 3, 0,  //
                         7, 7, 7, 7, 7,  //
                         -kInfinity, 0, -kInfinity, -kInfinity, -1});
  p.scale = {1, 2, 4, 8, 16};
  KernelStream stream;
  const Choice got = Chosen(p, &stream);
  EXPECT_THAT(got.ids, ElementsAre(1, 2, 0, 1, 1, 4));
  EXPECT_THAT(std::vector<float>(got.weights.begin(), got.weights.begin() + 4),
              ElementsAre(1, 2, 0.5f, 1));
  EXPECT_NEAR(got.weights[4], 2 / (1 + std::exp(-1.0)), 1e-5);
}

TEST(RouteRulesTest, LogitsThatAreNotNumbersChooseExpertsThatExist) {
  // Given rows of nothing else, with a few among numbers, with infinities, and an ordinary one.
  const int experts = 130, top_k = 3;
  std::vector<float> logits = RandomFloats(4 * experts, 1);
  std::fill_n(logits.begin(), experts, NAN);
  for (const int e : {5, 70, 129}) logits[experts + e] = NAN;
  logits[2 * experts + 7] = kInfinity;
  const Problem p = ProblemOf(experts, top_k, logits);
  // When they are routed.
  KernelStream stream;
  const Choice got = Chosen(p, &stream);
  // Then the reference's experts are chosen, and what is not a number shows in its own row.
  EXPECT_EQ(got.ids, Reference(p).ids);
  for (int k = 0; k < 3 * top_k; ++k)
    EXPECT_TRUE(k / top_k == 2 || std::isnan(got.weights[k])) << k;
  for (int k = 3 * top_k; k < 4 * top_k; ++k) EXPECT_TRUE(std::isfinite(got.weights[k])) << k;
  const Problem all_lowest = ProblemOf(8, 3, std::vector<float>(8, -kInfinity));
  EXPECT_THAT(Chosen(all_lowest, &stream).ids, ElementsAre(0, 1, 2));
}

TEST(RouteRulesTest, ARowsBitsDoNotDependOnItsNeighbours) {
  const int rows = 4, experts = 40, top_k = 6;
  const std::vector<float> logits = RandomFloats(rows * experts, 1);
  KernelStream stream;
  const Choice together = Chosen(ProblemOf(experts, top_k, logits), &stream);
  for (int t = 0; t < rows; ++t) {
    const Choice alone =
        Chosen(ProblemOf(experts, top_k,
                         {logits.begin() + t * experts, logits.begin() + (t + 1) * experts}),
               &stream);
    const auto first = together.weights.begin() + t * top_k;
    EXPECT_TRUE(SameBits(alone.weights, {first, first + top_k})) << t;
  }
}

TEST(RouteRulesTest, MovesTheBytesOfItsFormula) {
  if (!kCountsTraffic) GTEST_SKIP() << "a device does not count its traffic";
  const int rows = 5, experts = 130, top_k = 7;
  KernelStream stream;
  Chosen(ProblemOf(experts, top_k, RandomFloats(rows * experts, 1)), &stream);
  const emu::TrafficBytes traffic = stream.TakeTraffic();
  EXPECT_EQ(traffic.read, 4u * rows * experts + 4u * rows * top_k);
  EXPECT_EQ(traffic.written, 8u * rows * top_k);
}

TEST(RouteRulesTest, CountsWithoutAKernelAreTold) {
  EXPECT_TRUE(K_WORLD::RouteSupports(128, 8));
  EXPECT_TRUE(K_WORLD::RouteSupports(1024, 32));
  EXPECT_TRUE(K_WORLD::RouteSupports(1, 1));
  EXPECT_FALSE(K_WORLD::RouteSupports(8, 0));
  EXPECT_FALSE(K_WORLD::RouteSupports(8, 9));
  EXPECT_FALSE(K_WORLD::RouteSupports(1024, 33));
  EXPECT_FALSE(K_WORLD::RouteSupports(1025, 8));
}

TEST(RouteRulesTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::Route({.experts = 8, .top_k = 2}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
