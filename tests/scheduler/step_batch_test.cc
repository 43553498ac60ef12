// From planned rows to flat arrays.
#include "scheduler/step_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::scheduler {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// A request of five prompt tokens and one sequence for it.
struct OneSequence {
  RequestState state;
  Sequence sequence;

  OneSequence() {
    state.request.prompt = {10, 11, 12, 13, 14};
    state.request.stop = {.max_tokens = 4, .eos_ids = {1}};
    state.stop_ids = {1};
    sequence.request = &state;
    sequence.tables[engine::kFull].blocks = {3, 4};
  }
};

TEST(BuildStepBatchTest, LaysSegmentsOutOneAfterTheOther) {
  // Given a decoding sequence at position 5 and a chunk of three prompt rows.
  OneSequence decoding, prefilling;
  decoding.sequence.output = {77};
  decoding.sequence.kv_tokens = 5;
  const SeatRows seats[] = {{&decoding.sequence, 1}, {&prefilling.sequence, 3}};
  // When the batch is built.
  const engine::StepBatch batch = BuildStepBatch(seats);
  // Then rows, positions and tables follow the seats.
  EXPECT_THAT(batch.ids, ElementsAre(77, 10, 11, 12));
  EXPECT_THAT(batch.positions, ElementsAre(5, 0, 1, 2));
  ASSERT_EQ(batch.segments.size(), 2u);
  EXPECT_EQ(batch.segments[1].row_begin, 1);
  EXPECT_EQ(batch.segments[1].num_rows, 3);
  EXPECT_THAT(batch.segments[0].block_table[engine::kFull], ElementsAre(3, 4));
  EXPECT_THAT(batch.segments[0].block_table[engine::kSliding], IsEmpty());
  // And only the decoder draws a token: the chunk is not the end of its prompt.
  ASSERT_EQ(batch.samples.size(), 1u);
  EXPECT_EQ(batch.samples[0].row, 0);
  EXPECT_EQ(batch.samples[0].position, 6);
  EXPECT_EQ(batch.samples[0].params, &decoding.state.request.sampling);
  EXPECT_EQ(batch.samples[0].counts, nullptr);
}

TEST(BuildStepBatchTest, StopsAreMaskedUntilMinTokens) {
  OneSequence one;
  one.state.request.stop.min_tokens = 1;
  const SeatRows seats[] = {{&one.sequence, 5}};
  EXPECT_THAT(BuildStepBatch(seats).samples.at(0).masked, ElementsAre(1));
  one.sequence.output = {20};
  one.sequence.kv_tokens = 5;
  const SeatRows later[] = {{&one.sequence, 1}};
  EXPECT_THAT(BuildStepBatch(later).samples.at(0).masked, IsEmpty());
}

TEST(BuildStepBatchTest, PromptScoresAreAskedFromTheRowBefore) {
  // Given a request for prompt log-probabilities, two rows of which ran before.
  OneSequence one;
  one.state.request.prompt_logprobs.enabled = true;
  one.state.next_scored = 3;
  one.sequence.kv_tokens = 2;
  const SeatRows seats[] = {{&one.sequence, 3}};
  const engine::StepBatch batch = BuildStepBatch(seats);
  // Then rows of positions 2 and 3 score the tokens at 3 and 4, and the last row draws.
  ASSERT_EQ(batch.samples.size(), 3u);
  EXPECT_EQ(batch.samples[0].row, 0);
  EXPECT_EQ(batch.samples[0].score_id, 13);
  EXPECT_EQ(batch.samples[0].params, nullptr);
  EXPECT_EQ(batch.samples[1].row, 1);
  EXPECT_EQ(batch.samples[1].score_id, 14);
  EXPECT_EQ(batch.samples[2].row, 2);
  EXPECT_NE(batch.samples[2].params, nullptr);
}

TEST(BuildStepBatchTest, WhatWasScoredBeforeAPreemptionIsNotScoredAgain) {
  OneSequence one;
  one.state.request.prompt_logprobs.enabled = true;
  one.state.next_scored = 4;
  const SeatRows seats[] = {{&one.sequence, 5}};
  const engine::StepBatch batch = BuildStepBatch(seats);
  ASSERT_EQ(batch.samples.size(), 2u);
  EXPECT_EQ(batch.samples[0].row, 3);
  EXPECT_EQ(batch.samples[0].score_id, 14);
}

TEST(BuildStepBatchTest, OnlyTheFirstChoiceScoresAndScoringAloneDrawsNothing) {
  OneSequence one;
  one.state.request.prompt_logprobs.enabled = true;
  one.state.request.stop.max_tokens = 0;
  one.sequence.choice = 1;
  const SeatRows seats[] = {{&one.sequence, 5}};
  EXPECT_THAT(BuildStepBatch(seats).samples, IsEmpty());
}

}  // namespace
}  // namespace tandem::scheduler
