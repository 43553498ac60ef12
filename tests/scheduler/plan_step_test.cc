// Decisions of one step, from plain states.
#include "scheduler/plan_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/scheduler/plan_input_builder.h"

namespace tandem::scheduler {

namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;
using testing::UnorderedElementsAre;

TEST(PlanStepTest, DecodingGoesFirstAndThePromptGetsTheRowsThatFitTheTarget) {
  // Given an older prompt and a decoder, on a machine where 20 prompt rows fit beside it.
  const PlanInput input = PlanInputBuilder().Prefilling(400, 32).Decoding(5).Measured().input;
  // When one step is planned.
  const StepPlan plan = PlanStep(input);
  // Then the decoder has its row and the prompt a chunk of 20.
  EXPECT_THAT(plan.decode, ElementsAre(SeqRows{.seq = 1, .first_position = 5, .rows = 1}));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 0, .first_position = 32, .rows = 20}));
  EXPECT_THAT(plan.preempt, IsEmpty());
}

TEST(PlanStepTest, WithoutDecodersAChunkTakesTheWholeStep) {
  const PlanInput input = PlanInputBuilder().Prefilling(400, 0).Measured().input;
  EXPECT_THAT(PlanStep(input).prefill, ElementsAre(SeqRows{.seq = 0, .rows = 64}));
}

TEST(PlanStepTest, AChunkNeverShrinksBelowTheMinimum) {
  // Given prompt rows so slow that not one fits the target.
  PlanInputBuilder builder;
  builder.Decoding(5).Prefilling(400, 0).Measured();
  builder.input.cost.prompt_row_us = 1'000'000;
  EXPECT_THAT(PlanStep(builder.input).prefill, ElementsAre(SeqRows{.seq = 1, .rows = 8}));
}

TEST(PlanStepTest, SeveralPromptsShareAStepInOrder) {
  const PlanInput input = PlanInputBuilder().Prefilling(30, 10).Prefilling(7, 0).Waiting(90).input;
  const StepPlan plan = PlanStep(input);
  EXPECT_THAT(plan.prefill,
              ElementsAre(SeqRows{.seq = 0, .first_position = 10, .rows = 20},
                          SeqRows{.seq = 1, .rows = 7}, SeqRows{.seq = 2, .rows = 37}));
  EXPECT_THAT(plan.admit, SizeIs(1));
}

TEST(PlanStepTest, ARecomputedSequenceRunsItsOutputInChunksToo) {
  // Given a preempted sequence of 20 prompt and 10 generated tokens.
  PlanInputBuilder builder;
  builder.input.waiting.push_back(builder.State(20, 30, 0));
  EXPECT_THAT(PlanStep(builder.input).prefill, ElementsAre(SeqRows{.seq = 0, .rows = 30}));
}

TEST(PlanStepTest, WhoOnlyWaitsForRowsIsNotSeatedYet) {
  // Given a first prompt that fills the step.
  const StepPlan plan = PlanStep(PlanInputBuilder().Waiting(64).Waiting(10).input);
  // Then the second one stays in the queue although a slot is free.
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 0, .rows = 64}));
  EXPECT_THAT(plan.admit, SizeIs(1));
}

TEST(PlanStepTest, SlotsLimitHowManyAreSeated) {
  PlanInputBuilder builder;
  builder.input.config.max_slots = 3;
  builder.Decoding(5).Waiting(2).Waiting(2).Waiting(2);
  EXPECT_THAT(PlanStep(builder.input).admit, SizeIs(2));
}

TEST(PlanStepTest, TheQueueIsNotSkippedForAShorterPrompt) {
  // Given too few blocks for the head of the queue, enough for the next.
  const StepPlan plan =
      PlanStep(PlanInputBuilder().Decoding(5).Waiting(200).Waiting(10).Free(8).input);
  EXPECT_THAT(plan.admit, SizeIs(0));
  EXPECT_THAT(plan.prefill, IsEmpty());
}

TEST(PlanStepTest, BlocksThatASeatedPromptStillNeedsAreNotGivenAway) {
  // Given a seated prompt that will need 11 blocks, for its 160 tokens and one more, and a newcomer
  // that needs two.
  PlanInputBuilder builder;
  builder.Prefilling(160, 0).Waiting(16);
  builder.input.config.max_step_rows = 200;
  // Then the newcomer waits until there is also one for its elder to grow.
  EXPECT_THAT(PlanStep(builder.Free(12).input).admit, SizeIs(0));
  EXPECT_THAT(PlanStep(builder.Free(13).input).admit, SizeIs(0));
  EXPECT_THAT(PlanStep(builder.Free(14).input).admit, SizeIs(1));
}

TEST(PlanStepTest, AnUrgentPromptGoesBeforeAnOlderOneThatIsSeated) {
  // Given a seated prompt and a waiting one of better rank.
  PlanInputBuilder builder;
  builder.Prefilling(400, 0).Waiting(40);
  builder.input.waiting[0].rank.key_us = -1;
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.prefill,
              ElementsAre(SeqRows{.seq = 1, .rows = 40}, SeqRows{.seq = 0, .rows = 24}));
}

TEST(PlanStepTest, OutOfBlocksTheLastInRankIsPreempted) {
  // Given three decoders, the first two at the edge of a block, and no free block.
  const PlanInput input = PlanInputBuilder().Decoding(16).Decoding(32).Decoding(20).Free(0).input;
  const StepPlan plan = PlanStep(input);
  // Then the last one gives its two blocks, which are enough for the others.
  EXPECT_THAT(plan.preempt, ElementsAre(2));
  EXPECT_THAT(plan.decode, ElementsAre(SeqRows{.seq = 0, .first_position = 16, .rows = 1},
                                       SeqRows{.seq = 1, .first_position = 32, .rows = 1}));
}

TEST(PlanStepTest, TheLastInRankWaitsInItsSeat) {
  // Given that only the last one needs a block.
  const PlanInput input = PlanInputBuilder().Decoding(5).Decoding(16).Free(0).input;
  const StepPlan plan = PlanStep(input);
  // Then it is not preempted for itself, and nobody before it is.
  EXPECT_THAT(plan.preempt, IsEmpty());
  EXPECT_THAT(plan.decode, ElementsAre(SeqRows{.seq = 0, .first_position = 5, .rows = 1}));
}

TEST(PlanStepTest, NobodyIsSeatedWhileBlocksAreShort) {
  const StepPlan plan =
      PlanStep(PlanInputBuilder().Decoding(16).Decoding(20).Waiting(4).Free(1).input);
  EXPECT_THAT(plan.admit, SizeIs(0));
  EXPECT_THAT(plan.preempt, IsEmpty());
}

TEST(PlanStepTest, AChunkShrinksToTheFreeBlocksBeforeAnybodyIsPreempted) {
  // Given a prompt that wants 64 rows, and two free blocks.
  const PlanInput input = PlanInputBuilder().Prefilling(400, 8).Free(2).input;
  // Then it fills the block it has and these two.
  EXPECT_THAT(PlanStep(input).prefill,
              ElementsAre(SeqRows{.seq = 0, .first_position = 8, .rows = 8 + 2 * kBlockTokens}));
}

TEST(PlanStepTest, ALongChunkLeavesTheBlockThatADecoderBehindItNeeds) {
  PlanInputBuilder builder;
  builder.Prefilling(400, 0).Decoding(16).Measured().Free(2);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.decode, ElementsAre(SeqRows{.seq = 1, .first_position = 16, .rows = 1}));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 0, .rows = kBlockTokens}));
}

TEST(PlanStepTest, TheScarcerGroupDecides) {
  // Given both groups, and a sliding pool with one free block.
  PlanInputBuilder builder;
  builder.input.limits.num_blocks = {10, 100};
  builder.input.free_blocks = {1, 100};
  builder.Prefilling(400, 64);
  EXPECT_THAT(PlanStep(builder.input).prefill,
              ElementsAre(SeqRows{.seq = 0, .first_position = 64, .rows = kBlockTokens}));
}

TEST(PlanStepTest, ALongPromptNeedsOnlyItsWindowOfSlidingBlocks) {
  // Given a sliding pool of four blocks (a window of 32 overlaps three) and a prompt of 25 blocks.
  PlanInputBuilder builder;
  builder.input.limits.num_blocks = {4, 100};
  builder.input.free_blocks = {4, 100};
  builder.Waiting(400);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.admit, SizeIs(1));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 0, .rows = 4 * kBlockTokens}));
}

TEST(TenantPlanTest, PromptsOfTwoTenantsShareTheRowsEqually) {
  // Given two prompts of one tenant and, behind them, one of another.
  const PlanInput input =
      PlanInputBuilder().Prefilling(400, 0).Of(0).Prefilling(400, 0).Of(0).Waiting(90).Of(1).input;
  const StepPlan plan = PlanStep(input);
  EXPECT_THAT(plan.prefill,
              ElementsAre(SeqRows{.seq = 0, .rows = 32}, SeqRows{.seq = 2, .rows = 32}));
  EXPECT_THAT(plan.admit, ElementsAre(2));
  EXPECT_TRUE(plan.prompts_limited);
}

TEST(TenantPlanTest, RowsThatATenantHasNoUseForGoToTheOthers) {
  const PlanInput input = PlanInputBuilder()
                              .Prefilling(400, 0)
                              .Of(0)
                              .Prefilling(10, 0)
                              .Of(1)
                              .Prefilling(30, 8)
                              .Of(2)
                              .input;
  EXPECT_THAT(PlanStep(input).prefill,
              ElementsAre(SeqRows{.seq = 0, .rows = 32}, SeqRows{.seq = 1, .rows = 10},
                          SeqRows{.seq = 2, .first_position = 8, .rows = 22}));
}

TEST(TenantPlanTest, WithMoreTenantsThanRowsTheFirstGetThem) {
  // Given a machine so slow that two rows are all there is beside a decoder.
  PlanInputBuilder builder;
  builder.Decoding(5).Of(0).Prefilling(9, 0).Of(1).Prefilling(9, 0).Of(2).Prefilling(9, 0).Of(3);
  builder.Measured();
  builder.input.cost.prompt_row_us = 1'000'000;
  builder.input.config.min_chunk_rows = 2;
  EXPECT_THAT(PlanStep(builder.input).prefill,
              ElementsAre(SeqRows{.seq = 1, .rows = 1}, SeqRows{.seq = 2, .rows = 1}));
}

TEST(TenantPlanTest, ANewcomerGetsTheSeatOfTheWorstRankedOfTheTenantWithMost) {
  // Given four seats, three of tenant 0 and one of tenant 1, and a sequence of tenant 2 waiting.
  PlanInputBuilder builder;
  builder.Slots(4).Decoding(5).Of(0).Decoding(6).Of(0).Decoding(7).Of(0).Decoding(8).Of(1);
  builder.Waiting(10).Of(2);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.make_room, ElementsAre(2));
  EXPECT_THAT(plan.preempt, IsEmpty());
  EXPECT_THAT(plan.admit, ElementsAre(4));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 4, .rows = 8}));
  EXPECT_THAT(plan.decode, SizeIs(3));
}

TEST(TenantPlanTest, NobodyIsSwappedForATenantWithAnEqualShare) {
  // Given two seats of tenant 0 and one of tenant 1, which wants another one.
  PlanInputBuilder builder;
  builder.Slots(3).Decoding(5).Of(0).Decoding(6).Of(0).Decoding(8).Of(1).Waiting(10).Of(1);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.make_room, IsEmpty());
  EXPECT_THAT(plan.admit, IsEmpty());
}

TEST(TenantPlanTest, ATenantKeepsItsOnlySeat) {
  PlanInputBuilder builder;
  builder.Slots(2).Decoding(5).Of(0).Decoding(6).Of(1).Waiting(10).Of(2);
  EXPECT_THAT(PlanStep(builder.input).make_room, IsEmpty());
}

TEST(TenantPlanTest, TheBestOfATenantIsNotSwappedForThoseThatJoinItNow) {
  // Given that tenant 0 fills its seats up in this very step, before tenant 1 finds none.
  PlanInputBuilder builder;
  builder.Slots(3).Decoding(5).Of(0).Waiting(10).Of(0).Waiting(10).Of(0).Waiting(10).Of(1);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.make_room, IsEmpty());
  EXPECT_THAT(plan.decode, SizeIs(1));
}

TEST(TenantPlanTest, ANewcomerGetsBlocksToo) {
  // Given seats enough but one free block, and tenant 0 holding six and four.
  PlanInputBuilder builder;
  builder.Decoding(90).Of(0).Decoding(60).Of(0).Waiting(40).Of(1).Free(1);
  StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.make_room, ElementsAre(1));
  EXPECT_THAT(plan.admit, ElementsAre(2));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 2, .rows = 8}));
  // But nobody makes room when that is not enough.
  PlanInputBuilder large;
  large.Decoding(90).Of(0).Decoding(60).Of(0).Waiting(90).Of(1).Free(1);
  plan = PlanStep(large.input);
  EXPECT_THAT(plan.make_room, IsEmpty());
  EXPECT_THAT(plan.admit, IsEmpty());
}

TEST(TenantPlanTest, OnlyAFewAreSwappedInAStep) {
  PlanInputBuilder builder;
  builder.Slots(6);
  for (int i = 0; i < 6; ++i) builder.Decoding(5).Of(0);
  for (int tenant = 1; tenant < 5; ++tenant) builder.Waiting(10).Of(tenant);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.make_room, UnorderedElementsAre(4, 5));
  EXPECT_THAT(plan.admit, ElementsAre(6, 7));
}

TEST(TenantPlanTest, BlocksAreTakenFromTheTenantWithMostSeats) {
  // Given that the first needs a block, and the last in rank is another tenant's only one.
  PlanInputBuilder builder;
  builder.Decoding(16).Of(0).Decoding(20).Of(0).Decoding(20).Of(1).Free(0);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.preempt, ElementsAre(1));
  EXPECT_THAT(plan.make_room, IsEmpty());
}

TEST(PausedPlanTest, APausedSequenceGetsNoRowsAndKeepsItsSeat) {
  PlanInputBuilder builder;
  builder.Decoding(5).Paused().Prefilling(40, 0).Paused().Decoding(7);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.decode, ElementsAre(SeqRows{.seq = 2, .first_position = 7, .rows = 1}));
  EXPECT_THAT(plan.prefill, IsEmpty());
  EXPECT_THAT(plan.make_room, IsEmpty());
  EXPECT_FALSE(plan.prompts_limited);
}

TEST(PausedPlanTest, ItMakesRoomForWhoeverWaitsForASeat) {
  // Given all seats taken, the best-ranked and one more paused, and two waiting.
  PlanInputBuilder builder;
  builder.Slots(3).Decoding(5).Paused().Decoding(6).Decoding(7).Paused();
  builder.Waiting(10);
  StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.make_room, ElementsAre(2));
  EXPECT_THAT(plan.admit, ElementsAre(3));
  builder.Waiting(10).Waiting(10);
  plan = PlanStep(builder.input);
  EXPECT_THAT(plan.make_room, UnorderedElementsAre(0, 2));
  EXPECT_THAT(plan.admit, ElementsAre(3, 4));
}

TEST(PausedPlanTest, ItGivesItsBlocksBeforeAnybodyBehindIt) {
  PlanInputBuilder builder;
  builder.Decoding(20).Paused().Decoding(16).Decoding(20).Free(0);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.make_room, ElementsAre(0));
  EXPECT_THAT(plan.preempt, IsEmpty());
  EXPECT_THAT(plan.decode, SizeIs(2));
}

TEST(PlanStepTest, NothingToDoIsAnEmptyPlan) {
  EXPECT_EQ(PlanStep(PlanInputBuilder().input), StepPlan{});
}

TEST(RankTest, PriorityBuysAFixedHeadStart) {
  // Given that a point is worth ten seconds.
  const SchedulerConfig config = {.priority_point_us = 10'000'000};
  Request plain, urgent;
  urgent.priority = 2;
  const auto rank = [&](Request request, int64_t arrival_s, RequestId id) {
    request.arrival_us = arrival_s * 1'000'000;
    return RankOf(config, request, id, 0);
  };
  // Then an urgent request passes those of the last 20 seconds, and none older.
  EXPECT_LT(rank(urgent, 119, 2), rank(plain, 100, 1));
  EXPECT_GT(rank(urgent, 121, 2), rank(plain, 100, 1));
  // And equals are served in order of submission, then by choice.
  EXPECT_LT(rank(plain, 100, 1), rank(plain, 100, 2));
  EXPECT_LT(RankOf(config, plain, 1, 0), RankOf(config, plain, 1, 1));
  // And a priority beyond the range buys no more than the range.
  urgent.priority = 1 << 30;
  const Rank rank_of_wild = rank(urgent, 0, 1);
  urgent.priority = 100;
  EXPECT_EQ(rank_of_wild, rank(urgent, 0, 1));
}

}  // namespace
}  // namespace tandem::scheduler
