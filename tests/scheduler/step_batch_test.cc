// From planned rows to flat arrays.
#include "scheduler/step_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

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
  const SeatRows seats[] = {{.sequence = &decoding.sequence, .rows = 1},
                            {.sequence = &prefilling.sequence, .rows = 3}};
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

TEST(BuildStepBatchTest, CopiesAreCollectedInTheOrderOfSeats) {
  OneSequence first, second;
  const SeatRows seats[] = {
      {.sequence = &first.sequence, .rows = 5, .copies = {{engine::kSliding, 1, 2}}},
      {.sequence = &second.sequence,
       .rows = 5,
       .copies = {{engine::kSliding, 1, 3}, {engine::kFull, 4, 5}}}};
  const engine::StepBatch batch = BuildStepBatch(seats);
  ASSERT_EQ(batch.copies.size(), 3u);
  EXPECT_EQ(batch.copies[0].to, 2);
  EXPECT_EQ(batch.copies[1].to, 3);
  EXPECT_EQ(batch.copies[2].group, engine::kFull);
  EXPECT_EQ(batch.copies[2].from, 4);
}

TEST(BuildStepBatchTest, StopsAreMaskedUntilMinTokens) {
  OneSequence one;
  one.state.request.stop.min_tokens = 1;
  const SeatRows seats[] = {{.sequence = &one.sequence, .rows = 5}};
  EXPECT_THAT(BuildStepBatch(seats).samples.at(0).masked, ElementsAre(1));
  one.sequence.output = {20};
  one.sequence.kv_tokens = 5;
  const SeatRows later[] = {{.sequence = &one.sequence, .rows = 1}};
  EXPECT_THAT(BuildStepBatch(later).samples.at(0).masked, IsEmpty());
}

TEST(BuildStepBatchTest, AVerifiedSegmentDrawsInEveryRowBehindTheGuessesBeforeIt) {
  // Given a decoder with three guesses at hand, of which two run, beside a plain one.
  OneSequence verified, plain;
  verified.state.needs_counts = true;
  verified.sequence.output = {77};
  verified.sequence.kv_tokens = 5;
  verified.sequence.draft = {31, 32, 33};
  plain.sequence.output = {78};
  plain.sequence.kv_tokens = 5;
  const SeatRows seats[] = {{.sequence = &plain.sequence, .rows = 1},
                            {.sequence = &verified.sequence, .rows = 3, .drafts = 2}};
  const engine::StepBatch batch = BuildStepBatch(seats);
  // Then its rows feed the newest token and the guesses.
  EXPECT_THAT(batch.ids, ElementsAre(78, 77, 31, 32));
  EXPECT_THAT(batch.positions, ElementsAre(5, 5, 6, 7));
  EXPECT_EQ(batch.segments[0].num_drafts, 0);
  EXPECT_EQ(batch.segments[1].num_rows, 3);
  EXPECT_EQ(batch.segments[1].num_drafts, 2);
  // And each draws the token behind it, as if the guesses up to there had been drawn.
  ASSERT_EQ(batch.samples.size(), 4u);
  for (int held = 0; held <= 2; ++held) {
    const engine::SampleRequest& sample = batch.samples[1 + held];
    EXPECT_EQ(sample.row, 1 + held);
    EXPECT_EQ(sample.position, 6 + held);
    EXPECT_EQ(sample.counts, &verified.sequence.counts);
    EXPECT_THAT(std::vector<int32_t>(sample.drafted.begin(), sample.drafted.end()),
                testing::ElementsAreArray(verified.sequence.draft.data(), held));
  }
  EXPECT_THAT(batch.samples[0].drafted, IsEmpty());
}

TEST(BuildStepBatchTest, StopsAreMaskedByTheOutputUpToEachRow) {
  // Given that stops are masked until three tokens are there, and one is.
  OneSequence one;
  one.state.request.stop.min_tokens = 3;
  one.sequence.output = {20};
  one.sequence.kv_tokens = 5;
  one.sequence.draft = {31, 32, 33};
  const SeatRows seats[] = {{.sequence = &one.sequence, .rows = 4, .drafts = 3}};
  const engine::StepBatch batch = BuildStepBatch(seats);
  // Then the rows of the second and the third token may not stop, later ones may.
  ASSERT_EQ(batch.samples.size(), 4u);
  EXPECT_THAT(batch.samples[0].masked, ElementsAre(1));
  EXPECT_THAT(batch.samples[1].masked, ElementsAre(1));
  EXPECT_THAT(batch.samples[2].masked, IsEmpty());
  EXPECT_THAT(batch.samples[3].masked, IsEmpty());
}

TEST(BuildStepBatchTest, AsksForGuessesBehindTheSegmentsThatWantThem) {
  // Given a decoder that wants none, a chunk, one that wants four, and a prompt's end that wants 2.
  OneSequence none, chunk, four, two;
  for (OneSequence* decoding : {&none, &four}) {
    decoding->sequence.output = {77, 78};
    decoding->sequence.kv_tokens = 6;
  }
  const SeatRows seats[] = {{.sequence = &none.sequence, .rows = 1},
                            {.sequence = &chunk.sequence, .rows = 2},
                            {.sequence = &four.sequence, .rows = 1, .guess = 4},
                            {.sequence = &two.sequence, .rows = 5, .guess = 2}};
  const engine::StepBatch batch = BuildStepBatch(seats);
  ASSERT_EQ(batch.drafts.size(), 2u);
  EXPECT_EQ(batch.drafts[0].segment, 2);
  EXPECT_EQ(batch.drafts[0].max_tokens, 4);
  EXPECT_THAT(batch.drafts[0].prompt, ElementsAre(10, 11, 12, 13, 14));
  EXPECT_THAT(batch.drafts[0].output, ElementsAre(77, 78));
  EXPECT_EQ(batch.drafts[1].segment, 3);
  EXPECT_EQ(batch.drafts[1].max_tokens, 2);
  EXPECT_THAT(batch.drafts[1].output, IsEmpty());
}

TEST(BuildStepBatchTest, PromptScoresAreAskedFromTheRowBefore) {
  // Given a request for prompt log-probabilities, two rows of which ran before.
  OneSequence one;
  one.state.request.prompt_logprobs.enabled = true;
  one.state.next_scored = 3;
  one.sequence.kv_tokens = 2;
  const SeatRows seats[] = {{.sequence = &one.sequence, .rows = 3}};
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
  const SeatRows seats[] = {{.sequence = &one.sequence, .rows = 5}};
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
  const SeatRows seats[] = {{.sequence = &one.sequence, .rows = 5}};
  EXPECT_THAT(BuildStepBatch(seats).samples, IsEmpty());
}

}  // namespace
}  // namespace tandem::scheduler
