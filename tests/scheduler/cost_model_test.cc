// What the cost model learns from steps, and how many prompt rows it then allows beside decoders.
#include "scheduler/cost_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace tandem::scheduler {
namespace {

using testing::Each;

constexpr int64_t kTargetUs = 250'000;

TEST(CostModelTest, UnmeasuredPromptRowsAreTakenWithCare) {
  const CostModel model;
  EXPECT_EQ(PromptRowsWithin(model, 4, kTargetUs, 8, 500), 8);
  EXPECT_EQ(PromptRowsWithin(model, 4, kTargetUs, 8, 5), 5);
}

TEST(CostModelTest, AllowsTheRowsThatFitBesideTheDecoders) {
  // Given prompt rows of 1 ms and a decode step of 50 ms for four rows.
  CostModel model;
  Observe(model, /*prompt_rows=*/100, /*decode_rows=*/0, 100'000);
  Observe(model, 0, 4, 50'000);
  // Then 200 rows fit into what is left of 250 ms.
  EXPECT_EQ(PromptRowsWithin(model, 4, kTargetUs, 8, 500), 200);
  EXPECT_EQ(PromptRowsWithin(model, 4, kTargetUs, 8, 64), 64);
}

TEST(CostModelTest, NeverGoesBelowTheSmallestChunk) {
  // Given a machine on which the decoders alone miss the target.
  CostModel model;
  Observe(model, 10, 0, 1'000'000);
  Observe(model, 0, 4, 400'000);
  EXPECT_EQ(PromptRowsWithin(model, 4, kTargetUs, 8, 500), 8);
}

TEST(CostModelTest, BetweenMeasuredNumbersOfRowsGoesAStraightLine) {
  CostModel model;
  EXPECT_EQ(DecodeStepUs(model, 4), 0);
  // One measurement stands for all; ...
  Observe(model, 0, 3, 30'000);
  EXPECT_EQ(DecodeStepUs(model, 0), 0);
  EXPECT_EQ(DecodeStepUs(model, 1), 30'000);
  EXPECT_EQ(DecodeStepUs(model, 50), 30'000);
  // ... two for what is between them, and beyond by what a row cost there; ...
  Observe(model, 0, 8, 70'000);
  EXPECT_DOUBLE_EQ(DecodeStepUs(model, 1), 30'000);
  EXPECT_DOUBLE_EQ(DecodeStepUs(model, 3), 30'000);
  EXPECT_DOUBLE_EQ(DecodeStepUs(model, 7), 62'000);
  EXPECT_DOUBLE_EQ(DecodeStepUs(model, 8), 70'000);
  EXPECT_DOUBLE_EQ(DecodeStepUs(model, 18), 150'000);
  // ... which is no more than one costs on average.
  CostModel steep;
  Observe(steep, 0, 3, 1'000);
  Observe(steep, 0, 4, 40'000);
  EXPECT_DOUBLE_EQ(DecodeStepUs(steep, 8), 80'000);
}

TEST(CostModelTest, MoreRowsNeverCostLess) {
  // Given measurements with a stall at four rows.
  CostModel model;
  const std::vector<int64_t> us = {1000, 1010, 1020, 2000, 1040, 1050, 1060, 1070};
  for (int rows = 1; rows <= 8; ++rows) Observe(model, 0, rows, us[rows - 1]);
  std::vector<double> all(20);
  DecodeStepsUs(model, 1, all);
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
  for (int rows = 1; rows <= 20; ++rows) EXPECT_EQ(all[rows - 1], DecodeStepUs(model, rows));
  // Then the stall is shared by those after it, and those before are what they were.
  EXPECT_DOUBLE_EQ(all[2], 1020);
  EXPECT_DOUBLE_EQ(all[3], (2000 + 1040 + 1050 + 1060 + 1070) / 5.0);
  EXPECT_EQ(all[3], all[7]);
}

TEST(CostModelTest, ManyNumbersOfRowsShareAPoint) {
  // Given steps of every number of rows up to 512, linear.
  CostModel model;
  for (int rows = 1; rows <= 512; ++rows) Observe(model, 0, rows, 1000 + 10 * rows);
  // Then what was measured is known, from few points.
  EXPECT_LT(model.decode.points.size(), 50u);
  for (int rows = 1; rows <= 512; ++rows) {
    EXPECT_NEAR(DecodeStepUs(model, rows), 1000 + 10 * rows, 0.02 * (1000 + 10 * rows)) << rows;
  }
}

TEST(CostModelTest, AMachineThatGetsSlowerKeepsTheShapeOfItsCosts) {
  // Given steps of eight rows and of one, known for long.
  CostModel model;
  for (int i = 0; i < 20; ++i) {
    Observe(model, 0, 8, 1200);
    Observe(model, 0, 1, 1000);
    ObserveDrafting(model, std::vector<int>{1}, 100);
  }
  // When steps of one row become half again as slow, over and over.
  for (int i = 0; i < 100; ++i) Observe(model, 0, 1, 1500);
  // Then so are all others that were not measured since.
  EXPECT_NEAR(DecodeStepUs(model, 1), 1500, 1);
  EXPECT_NEAR(DecodeStepUs(model, 8) / DecodeStepUs(model, 1), 1.2, 0.03);
  std::vector<double> draft(2);
  DraftStepsUs(model, draft);
  EXPECT_NEAR(draft[1] / DecodeStepUs(model, 1), 0.1, 0.003);
}

TEST(CostModelTest, NeighbouringStepsOfDifferentSizeCorrectTheShape) {
  // Given a warm-up that took eight rows for twice as dear as they are.
  CostModel model;
  Observe(model, 0, 1, 1000);
  Observe(model, 0, 8, 2400);
  // When steps of both sizes take turns, on a machine whose speed drifts all the time.
  for (int i = 0; i < 400; ++i) {
    const double speed = 1 + 0.3 * std::sin(i / 50.0);
    Observe(model, 0, i % 2 == 0 ? 1 : 8, std::llround((i % 2 == 0 ? 1000 : 1200) * speed));
  }
  EXPECT_NEAR(DecodeStepUs(model, 8) / DecodeStepUs(model, 1), 1.2, 0.05);
}

TEST(CostModelTest, ADraftCostsItsForwardsByTheSlotsThatAreLeftInEach) {
  CostModel model;
  std::vector<double> us(17);
  DraftStepsUs(model, us);
  EXPECT_THAT(us, Each(0.0));
  // Given chains of two forwards each, for 1, 4 and 16 slots.
  ObserveDrafting(model, std::vector<int>(1, 2), 200);
  ObserveDrafting(model, std::vector<int>(4, 2), 260);
  ObserveDrafting(model, std::vector<int>(16, 2), 500);
  ObserveDrafting(model, {}, 1'000'000);  // nobody asked
  DraftStepsUs(model, us);
  EXPECT_EQ(us[0], 0);
  EXPECT_DOUBLE_EQ(us[1], 100);
  EXPECT_DOUBLE_EQ(us[2], 110);
  EXPECT_DOUBLE_EQ(us[4], 130);
  EXPECT_DOUBLE_EQ(us[16], 250);
  // When drafts of one to four guesses turn out half again as dear as the sum of their forwards.
  for (int i = 0; i < 200; ++i) {
    ObserveDrafting(model, std::vector<int>{4, 1, 2, 1}, (130 + 110 + 100 + 100) * 3 / 2);
  }
  DraftStepsUs(model, us);
  EXPECT_NEAR(us[4] + us[2] + 2 * us[1], 660, 10);
}

TEST(CostModelTest, ConvergesToASteadyCostOfMixedSteps) {
  // Given a first, wrong idea: a short prompt that paid for reading all weights.
  CostModel model;
  Observe(model, 8, 0, 160'000);  // 20 ms a row
  Observe(model, 0, 2, 40'000);
  // When mixed steps run at 1 ms a prompt row, with the rows that the model allows.
  int rows = 0;
  for (int i = 0; i < 40; ++i) {
    rows = PromptRowsWithin(model, 2, kTargetUs, 8, 500);
    Observe(model, rows, 2, 40'000 + rows * 1000);
  }
  // Then the chunk has grown to what fills the target.
  EXPECT_NEAR(rows, 210, 3);
}

TEST(CostModelTest, OneStallDoesNotCollapseTheChunk) {
  CostModel model;
  for (int i = 0; i < 10; ++i) Observe(model, 100, 0, 100'000);
  const int before = PromptRowsWithin(model, 1, kTargetUs, 8, 500);
  // When one step takes a hundred times as long.
  Observe(model, 100, 0, 10'000'000);
  // Then the chunk halves at worst: a measurement counts four times the estimate at most.
  EXPECT_GE(PromptRowsWithin(model, 1, kTargetUs, 8, 500), before / 2);
}

TEST(CostModelTest, TinyChunksTeachNothingAboutRows) {
  CostModel model;
  Observe(model, 100, 0, 100'000);
  const double before = model.prompt_row_us;
  Observe(model, 3, 2, 90'000);
  EXPECT_EQ(model.prompt_row_us, before);
}

TEST(ServiceRateTest, OnlyStepsThatPromptsFilledTeachHowFastPromptsAreServed) {
  ServiceRate rate;
  EXPECT_EQ(SecondsToFirstToken(rate, 1000), 0);
  // Given a step with rows to spare, then one without: 100 rows in 50 ms.
  Observe(rate, /*prompt_rows=*/10, /*prompts_limited=*/false, 50'000);
  EXPECT_EQ(rate.prompt_tokens_per_s, 0);
  Observe(rate, 100, true, 50'000);
  EXPECT_DOUBLE_EQ(rate.prompt_tokens_per_s, 2000);
  EXPECT_DOUBLE_EQ(rate.step_us, 50'000);
  EXPECT_DOUBLE_EQ(SecondsToFirstToken(rate, 1000), 0.5 + 0.05);
  // Then a small prompt does not make it look slower, and a fast one faster.
  Observe(rate, 10, false, 50'000);
  EXPECT_DOUBLE_EQ(rate.prompt_tokens_per_s, 2000);
  Observe(rate, 200, false, 50'000);
  EXPECT_DOUBLE_EQ(rate.prompt_tokens_per_s, 2500);
  // And steps of decoders count only as steps.
  Observe(rate, 0, false, 30'000);
  EXPECT_DOUBLE_EQ(rate.prompt_tokens_per_s, 2500);
  EXPECT_DOUBLE_EQ(rate.step_us, 45'000);
}

}  // namespace
}  // namespace tandem::scheduler
