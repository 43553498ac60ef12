// Rows and blocks of guesses, and how many are guessed next: decisions from plain states.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "scheduler/plan_step.h"
#include "tests/scheduler/plan_input_builder.h"

namespace tandem::scheduler {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

// Guesses fed, by decoder.
std::vector<int> DraftsOf(const StepPlan& plan) {
  std::vector<int> drafts;
  for (const SeqRows& rows : plan.decode) {
    EXPECT_EQ(rows.rows, 1 + rows.drafts);
    drafts.push_back(rows.drafts);
  }
  return drafts;
}

struct Drafters : PlanInputBuilder {
  Drafters() { input.config.max_draft_tokens = kMaxDraftTokens; }
};

TEST(PlanDraftsTest, ADecoderRunsItsNewestTokenAndItsGuesses) {
  // Given decoders with guesses and without, and a prompt.
  Drafters builder;
  builder.Drafting(5, 3).Drafting(6, 0).Prefilling(400, 0);
  const StepPlan plan = PlanStep(builder.input);
  // Then the guesses have rows behind the newest tokens, and the prompt gets its chunk.
  EXPECT_THAT(plan.decode,
              ElementsAre(SeqRows{.seq = 0, .first_position = 5, .rows = 4, .drafts = 3},
                          SeqRows{.seq = 1, .first_position = 6, .rows = 1}));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 2, .rows = 8}));
}

TEST(PlanDraftsTest, OfTooManyRowsTheLongestDraftsAreShortenedFirst) {
  // Given 3 decoders with guesses for 11 rows, in steps of ever fewer rows.
  Drafters builder;
  builder.Drafting(5, 5).Drafting(5, 1).Drafting(5, 2);
  const auto drafts_with = [&](int max_step_rows) {
    builder.input.config.max_step_rows = max_step_rows;
    return DraftsOf(PlanStep(builder.input));
  };
  // Then no decoder loses its row, and short drafts last.
  EXPECT_THAT(drafts_with(11), ElementsAre(5, 1, 2));
  EXPECT_THAT(drafts_with(10), ElementsAre(4, 1, 2));
  EXPECT_THAT(drafts_with(8), ElementsAre(2, 1, 2));
  EXPECT_THAT(drafts_with(7), ElementsAre(2, 1, 1));
  EXPECT_THAT(drafts_with(5), ElementsAre(1, 1, 0));
  EXPECT_THAT(drafts_with(3), ElementsAre(0, 0, 0));
}

TEST(PlanDraftsTest, PromptsKeepTheirSmallestChunkAndShrinkDownToItBeforeGuessesDo) {
  // Given a decoder with 16 guesses and a long prompt.
  Drafters builder;
  builder.Drafting(5, 16).Prefilling(400, 0);
  builder.Measured();
  builder.input.config.max_step_rows = 30;
  StepPlan plan = PlanStep(builder.input);
  // Then the prompt gets what is left of the step, as long as that is a chunk.
  EXPECT_THAT(DraftsOf(plan), ElementsAre(16));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 1, .rows = 13}));
  // And 8 rows at least.
  builder.input.config.max_step_rows = 15;
  plan = PlanStep(builder.input);
  EXPECT_THAT(DraftsOf(plan), ElementsAre(6));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 1, .rows = 8}));
  // A prompt with three rows left gets these.
  builder.input.seated[1] = builder.Next(builder.State(35, 35, 32));
  plan = PlanStep(builder.input);
  EXPECT_THAT(DraftsOf(plan), ElementsAre(11));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 1, .first_position = 32, .rows = 3}));
}

TEST(PlanDraftsTest, RowsOfGuessesCountAgainstTheTimeForPrompts) {
  // Given a machine where every verified row costs 50 ms, a prompt row 10, and 250 a step.
  Drafters builder;
  builder.Measured();
  Observe(builder.input.cost, 0, 4, 200'000);
  builder.Drafting(5, 3).Prefilling(400, 0);
  const StepPlan plan = PlanStep(builder.input);
  // Then next to four such rows only five of the prompt fit, and it gets its least chunk of 8.
  EXPECT_THAT(DraftsOf(plan), ElementsAre(3));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 1, .rows = 8}));
}

TEST(PlanDraftsTest, GuessesTakeNoBlockThatAnybodyElseCanUse) {
  // Given decoders in front of a block's end with guesses beyond it, and a prompt.
  Drafters builder;
  builder.Drafting(14, 4).Drafting(16, 2).Prefilling(400, 0);
  // Then with two blocks one goes to the second decoder's own row and one to the chunk.
  StepPlan plan = PlanStep(builder.Free(2).input);
  EXPECT_THAT(DraftsOf(plan), ElementsAre(1, 2));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 2, .rows = 8}));
  // And with a third one the first decoder runs all its guesses.
  plan = PlanStep(builder.Free(3).input);
  EXPECT_THAT(DraftsOf(plan), ElementsAre(4, 2));
  EXPECT_THAT(plan.preempt, IsEmpty());
}

TEST(PlanDraftsTest, ALongChunkGetsItsBlocksBeforeGuessesDo) {
  // Given a decoder whose guesses would need a block, and a chunk of 20 rows that needs two.
  Drafters builder;
  builder.Drafting(14, 4).Prefilling(400, 0).Measured();
  StepPlan plan = PlanStep(builder.Free(2).input);
  EXPECT_THAT(DraftsOf(plan), ElementsAre(1));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 1, .rows = 20}));
  plan = PlanStep(builder.Free(3).input);
  EXPECT_THAT(DraftsOf(plan), ElementsAre(4));
  EXPECT_THAT(plan.prefill, ElementsAre(SeqRows{.seq = 1, .rows = 20}));
}

TEST(PlanDraftsTest, NobodyIsPreemptedForGuesses) {
  // Given a full pool, and guesses of the first decoder that would need a block.
  Drafters builder;
  builder.Drafting(15, 3).Decoding(20).Free(0);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(DraftsOf(plan), ElementsAre(0, 0));
  EXPECT_THAT(plan.preempt, IsEmpty());
}

TEST(PlanDraftsTest, OfTooFewBlocksTheLongerDraftGoesShort) {
  // Given two drafts that both cross into a new block, the first only with its last guess, and one
  // free block.
  Drafters builder;
  builder.Drafting(12, 4).Drafting(12, 5).Free(1);
  // Then the row in the new block goes to the first that gets there.
  EXPECT_THAT(DraftsOf(PlanStep(builder.input)), ElementsAre(4, 3));
}

TEST(PlanDraftsTest, GuessesLeaveAdmissionAsItIs) {
  // Given a newcomer that needs two blocks beside one for its elder to grow.
  for (const int drafts : {0, 16}) {
    Drafters builder;
    builder.Drafting(5, drafts).Waiting(16);
    EXPECT_THAT(PlanStep(builder.Free(2).input).admit, SizeIs(0));
    EXPECT_THAT(PlanStep(builder.Free(3).input).admit, SizeIs(1));
  }
}

TEST(PlanGuessesTest, WhoeverDrawsATokenGetsItsWish) {
  // Given decoders, a prompt that ends in this step, one that does not, and a newcomer that does.
  Drafters builder;
  builder.Drafting(5, 3, /*wish=*/4).Drafting(6, 0, 0);
  builder.Prefilling(20, 15).Wishing(2).Waiting(10).Wishing(3);
  builder.Waiting(400).Wishing(3);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_THAT(plan.decode, ElementsAre(SeqRows{.seq = 0,
                                               .first_position = 5,
                                               .rows = 4,
                                               .drafts = 3,
                                               .guess = 4,
                                               .reason = DraftReason::kFixed},
                                       SeqRows{.seq = 1, .first_position = 6, .rows = 1}));
  ASSERT_THAT(plan.prefill, SizeIs(2));
  EXPECT_EQ(plan.prefill[0].guess, 2);
  EXPECT_EQ(plan.prefill[1].rows, 3);
  EXPECT_EQ(plan.prefill[1].guess, 0);
}

TEST(PlanGuessesTest, NothingIsGuessedForALastTokenOrWithoutADrafter) {
  // Given a decoder that ends with this step's token, and one that goes on.
  Drafters builder;
  builder.Decoding(5).Drafting(5, 0, /*wish=*/4);
  EXPECT_EQ(PlanStep(builder.input).decode[0].guess, 0);
  EXPECT_EQ(PlanStep(builder.input).decode[1].guess, 4);
  // When there is no drafter, then nobody gets a guess.
  builder.input.config.max_draft_tokens = 0;
  EXPECT_EQ(PlanStep(builder.input).decode[1].guess, 0);
}

TEST(PlanGuessesTest, NoMoreIsGuessedThanTheNextStepHasRowsFor) {
  // Given steps of 16 rows, 8 of them for prompts.
  Drafters builder;
  builder.input.config.max_step_rows = 16;
  builder.Drafting(5, 0, 9).Drafting(5, 0, 2).Drafting(5, 0, 9);
  const StepPlan plan = PlanStep(builder.input);
  EXPECT_EQ(plan.decode[0].guess, 2);
  EXPECT_EQ(plan.decode[1].guess, 2);
  EXPECT_EQ(plan.decode[2].guess, 1);
}

TEST(PlanGuessesTest, ThePlanKeepsWhatThePolicyPredicted) {
  // Given a machine whose costs are known.
  Drafters builder;
  const int guesses[] = {1};
  for (int i = 0; i < 20; ++i) {
    for (const int rows : {1, 2, 4}) {
      Observe(builder.input.cost, /*prompt_rows=*/0, rows, 10'000 + 100 * rows);
      ObserveDrafting(builder.input.cost, guesses, 300);
    }
  }
  builder.Decoding(5);
  const DraftWish wish = {.mode = Speculation::Mode::kAuto, .max_tokens = 4, .history = {}};
  builder.input.seated[0].wish = wish;
  builder.input.step = 1;
  const StepPlan plan = PlanStep(builder.input);
  const DraftChoice choice =
      ChooseDraftLengths({&wish, 1}, builder.input.draft_prior, builder.input.cost, 1);
  EXPECT_GT(plan.decode[0].guess, 0);
  EXPECT_GT(plan.drafted_tokens_per_s, plan.plain_tokens_per_s);
  EXPECT_EQ(plan.decode[0].guess, choice.tokens[0]);
  EXPECT_EQ(plan.plain_tokens_per_s, choice.plain_tokens_per_s);
  EXPECT_EQ(plan.drafted_tokens_per_s, choice.drafted_tokens_per_s);
}

TEST(PlanGuessesTest, ThePolicyIsToldWhatIsUnderWay) {
  // Given a machine where one row is cheap and nobody knows yet what drafting costs.
  for (const int drafts : {0, 2}) {
    Drafters builder;
    Observe(builder.input.cost, /*prompt_rows=*/0, /*decode_rows=*/1, 10'000);
    builder.Drafting(5, drafts);
    builder.input.seated[0].wish = {
        .mode = Speculation::Mode::kAuto, .max_tokens = 4, .history = {}};
    const StepPlan plan = PlanStep(builder.input);
    // Then the drafter is tried with a guess, but not while guesses wait to be verified.
    EXPECT_EQ(plan.decode[0].guess, drafts == 0 ? 1 : 0);
    EXPECT_EQ(plan.decode[0].reason == DraftReason::kTrial, drafts == 0);
  }
}

}  // namespace
}  // namespace tandem::scheduler
