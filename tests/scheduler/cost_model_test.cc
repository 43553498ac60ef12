// What the cost model learns, and how many prompt rows it then allows beside decoders.
#include "scheduler/cost_model.h"

#include <gtest/gtest.h>

namespace tandem::scheduler {
namespace {

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

TEST(CostModelTest, AnUnmeasuredNumberOfDecodersCostsAsTheNearestBelowElseAbove) {
  CostModel model;
  Observe(model, 0, 3, 30'000);
  Observe(model, 0, 8, 80'000);
  EXPECT_EQ(DecodeStepUs(model, 0), 0);
  EXPECT_EQ(DecodeStepUs(model, 1), 30'000);
  EXPECT_EQ(DecodeStepUs(model, 3), 30'000);
  EXPECT_EQ(DecodeStepUs(model, 7), 30'000);
  EXPECT_EQ(DecodeStepUs(model, 50), 80'000);
  EXPECT_EQ(DecodeStepUs(CostModel{}, 4), 0);
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
