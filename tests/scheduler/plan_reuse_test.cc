// Plans with rows that others have computed: who takes what, who waits, and how blocks are counted
// that several hold. Blocks have 16 tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "scheduler/plan_step.h"
#include "tests/scheduler/plan_input_builder.h"

namespace tandem::scheduler {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

struct ReuseBuilder : PlanInputBuilder {
  SeqState& Last() { return (input.waiting.empty() ? input.seated : input.waiting).back(); }
  // Of the last one: `tokens` for references on `blocks` blocks that `holders` have.
  ReuseBuilder& Reusing(int tokens, int blocks, std::vector<int> holders = {}) {
    Last().reuse.tokens = tokens;
    const int seq = static_cast<int>(input.seated.size() + input.waiting.size()) - 1;
    input.shared.push_back(
        {.group = engine::kFull, .blocks = blocks, .holders = std::move(holders), .takers = {seq}});
    return *this;
  }
  ReuseBuilder& Copying(int copied_to, int seq) {
    Last().reuse.copied_to = copied_to;
    Last().reuse.copy_seq = seq;
    return *this;
  }
  // Of the last one: its next block.
  ReuseBuilder& Block(int number) {
    Last().computes = Last().awaits = number;
    return *this;
  }
  // Of the seated: they hold so many blocks together.
  ReuseBuilder& Sharing(int blocks, std::vector<int> holders) {
    input.shared.push_back(
        {.group = engine::kFull, .blocks = blocks, .holders = std::move(holders), .takers = {}});
    return *this;
  }
};

TEST(PlanReuseTest, RowsBeginBehindWhatIsReused) {
  ReuseBuilder builder;
  builder.Waiting(50);
  builder.Reusing(/*tokens=*/32, /*blocks=*/2);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.admit, ElementsAre(0));
  EXPECT_THAT(plan.reuse, ElementsAre(SeqReuse{.seq = 0, .reuse = {.tokens = 32}}));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 0, .first_position = 32, .rows = 18}));
}

TEST(PlanReuseTest, CachedBlocksCountAsFreeUntilTheyAreTaken) {
  // Given a prompt of four blocks, of which two are cached.
  for (const int free : {3, 4}) {
    SCOPED_TRACE(free);
    ReuseBuilder builder;
    builder.Waiting(50);
    builder.Reusing(32, 2).Free(free);
    // Then it needs all four, two of which are those.
    EXPECT_EQ(PlanStep(builder.input).admit.size(), free == 4 ? 1u : 0u);
  }
}

TEST(PlanReuseTest, BlocksThatSomebodyHoldsCostNothing) {
  // Given a decoder of 33 rows, whose first two blocks a newcomer of four blocks would share.
  for (const int free : {2, 3}) {
    SCOPED_TRACE(free);
    ReuseBuilder builder;
    builder.Decoding(33).Waiting(50);
    builder.Reusing(32, 2, {0}).Free(free);
    // Then two are enough, and one for its elder to grow.
    EXPECT_EQ(PlanStep(builder.input).admit.size(), free == 3 ? 1u : 0u);
  }
}

TEST(PlanReuseTest, TwoWhoTakeTheSameCachedBlocksPayOnce) {
  // Given two prompts of 34 tokens with the same two cached blocks.
  ReuseBuilder builder;
  builder.Waiting(34).Waiting(34);
  for (SeqState& state : builder.input.waiting) state.reuse.tokens = 32;
  builder.input.shared = {{.group = engine::kFull, .blocks = 2, .holders = {}, .takers = {0, 1}}};
  // Then five blocks are enough: these two, one for each, and one for the first to grow.
  EXPECT_EQ(PlanStep(builder.Free(5).input).admit.size(), 2u);
  EXPECT_EQ(PlanStep(builder.Free(4).input).admit.size(), 1u);
}

TEST(PlanReuseTest, WhatDoesNotFitBesideItsOwnIsComputed) {
  // Given a seated prompt of 40 rows, which could take two more blocks that are cached, and whose
  // own three would go only afterwards.
  ReuseBuilder builder;
  builder.Prefilling(200, 40);
  builder.Reusing(80, 5).Free(4);
  const StepPlan plan = PlanStep(builder.input);
  // Then it goes on with its own.
  EXPECT_THAT(plan.reuse, IsEmpty());
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 0, .first_position = 40, .rows = 64}));
}

TEST(PlanReuseTest, AVictimThatFreesNothingIsPassedOver) {
  // Given three decoders, the first at the edge of a block; the last shares all it has with the
  // first.
  ReuseBuilder builder;
  builder.Decoding(32).Decoding(20).Decoding(32);
  builder.Sharing(2, {0, 2}).Free(0);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.preempt, ElementsAre(1));
  EXPECT_THAT(plan.decode, ElementsAre(SeqRows{.seq = 0, .first_position = 32, .rows = 1},
                                       SeqRows{.seq = 2, .first_position = 32, .rows = 1}));
}

TEST(PlanReuseTest, BlocksThatVictimsShareAreFreeWhenTheLastIsGone) {
  // Given two decoders that share both their blocks, behind one that needs a block.
  ReuseBuilder builder;
  builder.Decoding(32).Decoding(31).Decoding(31);
  builder.Sharing(2, {1, 2}).Free(0);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.preempt, ElementsAre(2, 1));
  EXPECT_THAT(plan.decode, ElementsAre(SeqRows{.seq = 0, .first_position = 32, .rows = 1}));
}

TEST(PlanReuseTest, WhatOneWhoMakesRoomHeldIsNotFreeWhenTheNewcomerTakesIt) {
  for (const int free : {3, 4}) {
    SCOPED_TRACE(free);
    // Given a decoder that needs a block soon, a paused one of two blocks, and a newcomer that
    // needs four, the first of which is one of these.
    ReuseBuilder builder;
    builder.Decoding(32).Decoding(31).Paused().Waiting(48);
    builder.Reusing(16, 1, {1}).Free(free);
    const StepPlan plan = PlanStep(builder.input);
    // Then two blocks of the paused one and four free ones do: one for the decoder, one for it to
    // grow, and four.
    EXPECT_EQ(plan.make_room.size(), free == 4 ? 1u : 0u);
    EXPECT_EQ(plan.admit.size(), free == 4 ? 1u : 0u);
  }
}

TEST(PlanReuseTest, WhoseBlockAnotherComputesGetsASeatAndNoRows) {
  ReuseBuilder builder;
  builder.Waiting(40);
  builder.Block(7);
  builder.Waiting(40);
  builder.Block(7);
  builder.Waiting(20);
  builder.Block(8);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.admit, ElementsAre(0, 1, 2));
  EXPECT_THAT(plan.prefill,
              ElementsAre(SeqRows{.seq = 0, .rows = 40}, SeqRows{.seq = 2, .rows = 20}));
  EXPECT_FALSE(plan.prompts_limited);
}

TEST(PlanReuseTest, WhoWaitsTakesWhatIsThere) {
  ReuseBuilder builder;
  builder.Prefilling(100, 32);
  builder.Block(7);
  builder.Prefilling(100, 0);
  builder.Reusing(32, 2, {0}).Block(7);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.reuse, ElementsAre(SeqReuse{.seq = 1, .reuse = {.tokens = 32}}));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 0, .first_position = 32, .rows = 64}));
}

TEST(PlanReuseTest, NobodyWaitsForOneThatPauses) {
  ReuseBuilder builder;
  builder.Prefilling(40, 0);
  builder.Block(7).Paused();
  builder.Prefilling(40, 0);
  builder.Block(7);
  EXPECT_THAT(PlanStep(builder.input).prefill, ElementsAre(SeqRows{.seq = 1, .rows = 40}));
}

TEST(PlanReuseTest, WhoLosesItsBlocksHandsItsRowsToTheNextThatComputesTheSame) {
  // Given a decoder that needs a block, and two prompts behind it with the same next block, of
  // which only the first has blocks to give.
  ReuseBuilder builder;
  builder.Decoding(32).Prefilling(100, 17);
  builder.Block(7).Prefilling(100, 0);
  builder.Block(7).Free(0);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.preempt, ElementsAre(1));
  EXPECT_THAT(plan.decode, ElementsAre(SeqRows{.seq = 0, .first_position = 32, .rows = 1}));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 2, .rows = 8}));
}

TEST(PlanReuseTest, ACopyIsMadeOfABlockWhoseOwnerComesFirst) {
  ReuseBuilder builder;
  builder.Decoding(40).Waiting(40);
  builder.Reusing(32, 2, {0}).Copying(39, 0);
  StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.reuse, ElementsAre(SeqReuse{
                              .seq = 1, .reuse = {.tokens = 32, .copied_to = 39, .copy_seq = 0}}));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 1, .first_position = 39, .rows = 1}));
  // Behind the newcomer, or paused, it could lose the block in this step.
  for (const bool paused : {false, true}) {
    SCOPED_TRACE(paused);
    ReuseBuilder other = builder;
    other.input.waiting[0].rank.key_us = paused ? 1 : -1;
    other.input.seated[0].paused = paused;
    plan = PlanStep(other.input);
    ASSERT_EQ(plan.reuse.size(), 1u);
    EXPECT_EQ(plan.reuse[0].reuse.copied_to, 0);
    EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 1, .first_position = 32, .rows = 8}));
  }
}

TEST(PlanReuseTest, ACopyNeedsABlock) {
  ReuseBuilder builder;
  builder.Decoding(40).Prefilling(60, 32);
  builder.Copying(39, 0).Free(0);
  EXPECT_THAT(PlanStep(builder.input).prefill, IsEmpty());
  EXPECT_THAT(PlanStep(builder.Free(1).input).prefill,
              ElementsAre(SeqRows{.seq = 1, .first_position = 39, .rows = 8}));
}

TEST(PlanReuseTest, WhoComesBackForItsNewestTokenDecodesAtOnce) {
  // Given a preempted sequence of 20 prompt and 13 generated tokens, 32 of which were kept.
  ReuseBuilder builder;
  builder.input.waiting.push_back(builder.State(20, 33, 0));
  builder.Reusing(32, 2);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.decode, ElementsAre(SeqRows{.seq = 0, .first_position = 32, .rows = 1}));
  EXPECT_THAT(plan.prefill, IsEmpty());
}

}  // namespace
}  // namespace tandem::scheduler
