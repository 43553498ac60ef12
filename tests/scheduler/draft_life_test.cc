// Drafts through the life of a sequence: rollback, seats, full steps, pauses, preemptions; and what
// is told about them. The numbers T.. are those of mtp.md 5.3.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "scheduler/plan_step.h"
#include "scheduler/scheduler.h"
#include "scheduler/step_log.h"
#include "tests/scheduler/draft_rig.h"

namespace tandem::scheduler {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::Gt;
using testing::IsEmpty;
using Mode = Speculation::Mode;

// T10.
TEST(RollbackTest, AfterAnyRoundsOnlyWhatPlainDecodingLeavesIsThere) {
  // Given one long sequence, whose guesses hold at random, for a thousand rounds.
  std::mt19937_64 random(7);
  DraftRig rig(8);
  rig.limits.max_context = 6000;
  rig.limits.num_blocks = {SlidingBlocksHeld(rig.limits) + 3, 800};
  rig.guess = [&](const GuessQuery& query) {
    engine::Draft draft = RightFor(static_cast<int>(random() % 9))(query);
    draft.ids.resize(random() % (draft.ids.size() + 1));
    return draft;
  };
  rig.Start();
  const Request request = rig.NewRequest(30, 5000);
  const std::vector<int32_t> expected = ExpectedChoice(request, 0, rig.limits).ids;
  std::vector<int32_t> all = request.prompt;
  all.insert(all.end(), expected.begin(), expected.end());
  std::vector<uint64_t> history = {kEmptyHistory};  // [position + 1]
  for (const int32_t id : all) history.push_back(Extend(history.back(), id));
  rig.Submit(request);
  int rounds = 0;
  int given_back = 0;
  for (; rounds < 1000 && rig.scheduler->RunOnce(); ++rounds) {
    ASSERT_THAT(rig.device->errors, IsEmpty());
    if (rig.Of(0).tokens == 0) continue;
    // Then after each the blocks are those that the committed rows need, no more and no less.
    const int kv_tokens = 30 + rig.Of(0).tokens - 1;
    const int blocks = (kv_tokens + 7) / 8;
    const SchedulerStats stats = rig.scheduler->stats();
    EXPECT_EQ(stats.blocks_used[engine::kFull], blocks);
    EXPECT_EQ(stats.blocks_used[engine::kSliding],
              blocks - std::max(0, kv_tokens - rig.limits.window) / 8);
    const int fed_end = kv_tokens + rig.device->step_drafts.back()[0];
    given_back += (fed_end + 7) / 8 > blocks;
  }
  EXPECT_EQ(rounds, 1000);
  EXPECT_GT(given_back, 50);
  // And every committed row is, bit by bit, that of plain decoding.
  const int kv_tokens = 30 + rig.Of(0).tokens - 1;
  std::vector<int> found(kv_tokens);
  for (const SimDevice::Cell& cell : rig.device->cells[engine::kFull]) {
    if (cell.position < 0 || cell.position >= kv_tokens || cell.rejected) continue;
    found[cell.position] +=
        cell.history == history[cell.position + 1] && cell.id == all[cell.position];
  }
  EXPECT_THAT(found, Each(1));
  const DraftCounts drafts = rig.scheduler->stats().drafts;
  EXPECT_GT(drafts.accepted, 1000);
  EXPECT_GT(drafts.drafted - drafts.accepted, 500);
}

// T16.
TEST(SlotTest, TheSameRequestDraftsAndAcceptsTheSameInEverySeat) {
  // Given a request that runs behind 0 to 3 others that hold seats and blocks but are paused.
  std::vector<DraftCounts> counts;
  std::vector<std::vector<int>> events;
  for (int others = 0; others < 4; ++others) {
    DraftRig rig(4, [](const GuessQuery& query) { return RightFor(query.position % 6)(query); });
    rig.Start();
    for (int i = 0; i < others; ++i) {
      const RequestId id = rig.Submit(20 + 9 * i, 100);
      rig.TurnsUntilTokens(i, 5);
      rig.scheduler->Pause(id);
    }
    Request request = rig.NewRequest(25, 80);
    std::iota(request.prompt.begin(), request.prompt.end(), 1000);
    rig.Submit(request);
    while (rig.Of(others).finished == 0) ASSERT_TRUE(rig.scheduler->RunOnce());
    EXPECT_THAT(rig.device->errors, IsEmpty());
    EXPECT_EQ(rig.Of(others).CheckAgainstExpected(rig.limits), "");
    counts.push_back(rig.Of(others).stats.drafts);
    events.push_back(rig.Of(others).choices[0].events);
  }
  // Then every round of it was the same.
  for (int others = 1; others < 4; ++others) {
    EXPECT_EQ(events[others], events[0]);
    EXPECT_EQ(counts[others].drafted_at, counts[0].drafted_at);
    EXPECT_EQ(counts[others].accepted_at, counts[0].accepted_at);
    EXPECT_EQ(counts[others].discarded, counts[0].discarded);
  }
  EXPECT_GT(counts[0].accepted, 20);
  EXPECT_LT(counts[0].accepted, counts[0].drafted);
}

// T28.
TEST(FullStepTest, AllSlotsVerifyTheMostWhileAPromptFillsTheStep) {
  // Given three of four slots that verify 16 guesses each, steps of 64 rows, and time for all of
  // it.
  DraftRig rig(kMaxDraftTokens);
  rig.config.step_target_us = 1'000'000;
  rig.limits.max_context = 1000;
  rig.limits.num_blocks = {200, 400};
  rig.Start();
  for (int i = 0; i < 3; ++i) rig.Submit(10, 500);
  rig.TurnsUntilTokens(2, 20);
  // When a long prompt arrives.
  rig.Submit(200, 500);
  rig.scheduler->RunOnce();
  // Then the step is full to the last row, and no guess was cut.
  EXPECT_THAT(rig.device->step_drafts.back(), ElementsAre(16, 16, 16, 0));
  EXPECT_EQ(rig.device->step_prompt_rows.back(), 64 - 3 * 17);
  EXPECT_EQ(rig.timings.back().rows, 64);
  // And when four slots want 68 rows, then their drafts are cut to the rows of the step.
  rig.TurnsUntilTokens(3, 20);
  EXPECT_LE(rig.timings.back().rows, 64);
  EXPECT_EQ(rig.timings.back().draft_rows + 4, rig.timings.back().rows);
  EXPECT_THAT(rig.device->step_drafts.back(), Each(Gt(10)));
  for (auto& recorder : rig.recorders) EXPECT_EQ(recorder->finished, 0);
  rig.Turns();
  rig.ExpectAllRight();
}

// T31.
TEST(FullStepTest, AVerifiedSegmentIsWholeWhateverTheRowsOfAStep) {
  // Given steps of every size from the least on, three decoders and a prompt.
  for (int max_step_rows = 12; max_step_rows <= 40; ++max_step_rows) {
    SCOPED_TRACE(absl::StrCat("max_step_rows ", max_step_rows));
    DraftRig rig(5, [](const GuessQuery& query) { return RightFor(query.position % 7)(query); });
    rig.config.max_step_rows = max_step_rows;
    rig.Start();
    for (int i = 0; i < 3; ++i) rig.Submit(10 + i, 60);
    rig.TurnsUntilTokens(2, 10);
    rig.Submit(100, 30);
    // Then in every step each sequence has one segment at most, of its newest token and all the
    // guesses that are verified (the device checks that their rows and samples are together).
    while (rig.scheduler->RunOnce()) {
      ASSERT_THAT(rig.device->errors, IsEmpty());
      EXPECT_LE(rig.timings.back().rows, max_step_rows);
      const StepRecord record = rig.scheduler->RecentSteps().back();
      std::vector<int> seen;
      for (const auto* list : {&record.plan.decode, &record.plan.prefill}) {
        for (const SeqRows& rows : *list) seen.push_back(rows.seq);
      }
      std::sort(seen.begin(), seen.end());
      EXPECT_EQ(std::unique(seen.begin(), seen.end()), seen.end());
    }
    rig.ExpectAllRight();
  }
}

TEST(PauseWithDraftsTest, GuessesAreKeptOverAPause) {
  // Given a request with four guesses at hand that is paused while another one runs.
  DraftRig rig;
  rig.Start();
  const RequestId id = rig.Submit(12, 40);
  rig.TurnsUntilTokens(0, 6);
  rig.scheduler->Pause(id);
  rig.Submit(10, 20);
  rig.Turns();
  EXPECT_EQ(rig.Of(0).tokens, 6);
  // When it goes on, then they are verified, and nothing was thrown away.
  rig.scheduler->Resume(id);
  rig.scheduler->RunOnce();
  EXPECT_THAT(rig.device->step_drafts.back(), ElementsAre(4));
  EXPECT_EQ(rig.Of(0).tokens, 11);
  EXPECT_EQ(rig.Of(0).stats.drafts.discarded, 0);
  rig.Turns();
  rig.ExpectAllRight();
}

TEST(PreemptionWithDraftsTest, GuessesAreDroppedAndDraftingGoesOnAfterTheRecomputation) {
  // Given a request with guesses at hand that must make room, and comes back to an empty cache.
  DraftRig rig;
  rig.config.max_slots = 1;
  rig.config.prefix_cache = false;
  rig.Start();
  const RequestId id = rig.Submit(12, 40);
  rig.TurnsUntilTokens(0, 11);
  rig.scheduler->Pause(id);
  Request plain = rig.NewRequest(10, 5);
  plain.speculation.mode = Mode::kOff;
  rig.Submit(plain);
  rig.Turns();
  EXPECT_EQ(rig.scheduler->stats().preempted_now, 1);
  EXPECT_EQ(rig.scheduler->stats().drafts.discarded, 4);
  EXPECT_EQ(rig.scheduler->stats().blocks_used[engine::kFull], 0);
  rig.scheduler->Resume(id);
  rig.scheduler->RunOnce();
  // Then its 23 known tokens run again as one chunk, which draws one token and asks for guesses.
  EXPECT_EQ(rig.timings.back().prompt_rows, 23);
  EXPECT_THAT(rig.device->step_drafts.back(), ElementsAre(0));
  EXPECT_THAT(rig.device->step_asked.back(), ElementsAre(4));
  EXPECT_EQ(rig.Of(0).tokens, 12);
  rig.scheduler->RunOnce();
  EXPECT_EQ(rig.Of(0).tokens, 17);
  rig.Turns();
  // The first token came from the prompt, the others from rounds: one ended the recomputation.
  const DraftCounts& drafts = rig.Of(0).stats.drafts;
  EXPECT_EQ(drafts.rounds + drafts.accepted, 40 - 1);
  EXPECT_EQ(rig.Of(0).stats.preemptions, 1);
  EXPECT_EQ(rig.Of(0).stats.recomputed_tokens, 22);
  rig.ExpectAllRight();
}

TEST(PreemptionWithDraftsTest, SmallPoolsPreemptAsOftenAsWithoutDraftsOrLess) {
  // Given four requests that do not fit together.
  int64_t preemptions[2];
  for (const bool drafts : {false, true}) {
    DraftRig rig(drafts ? 4 : 0, RightFor(2));
    rig.limits.num_blocks = {0, 20};
    rig.Start();
    for (int i = 0; i < 4; ++i) rig.Submit(20, 45);
    rig.Turns();
    preemptions[drafts] = rig.scheduler->stats().preemptions_total;
    EXPECT_EQ(rig.Of(0).stats.preemptions, 0);
    rig.ExpectAllRight();
  }
  EXPECT_GT(preemptions[false], 0);
  EXPECT_LE(preemptions[true], preemptions[false]);
}

TEST(DraftChoicesTest, EachChoiceDraftsByItself) {
  // Given three choices, of which the guesses for the second never hold.
  DraftRig rig(
      3, [](const GuessQuery& query) { return RightFor(query.state.choice == 1 ? 0 : 3)(query); });
  rig.Start();
  Request request = rig.NewRequest(12, 33);
  request.n = 3;
  rig.Submit(request);
  rig.Turns();
  EXPECT_EQ(rig.Of(0).choices[0].accepted, rig.Of(0).choices[0].drafted);
  EXPECT_EQ(rig.Of(0).choices[1].accepted, 0);
  EXPECT_GT(rig.Of(0).choices[1].drafted, 60);
  EXPECT_EQ(rig.Of(0).choices[2].accepted, 24);
  rig.ExpectAllRight();
}

TEST(DraftStatsTest, TheObserverAndTheStatsTellWhatDraftsDid) {
  // Given two requests, one of which drafts four tokens, of which two hold.
  DraftRig rig(4, RightFor(2));
  rig.Start();
  Request plain = rig.NewRequest(10, 40);
  plain.speculation.mode = Mode::kOff;
  rig.Submit(plain);
  rig.Submit(10, 40);
  rig.scheduler->RunOnce();
  EXPECT_EQ(rig.timings[0].prompt_rows, 20);
  EXPECT_EQ(rig.timings[0].draft_rows, 0);
  EXPECT_EQ(rig.timings[0].drafting, 1);
  EXPECT_EQ(rig.timings[0].draft_steps, 4);
  EXPECT_EQ(rig.timings[0].draft_us, 200);
  rig.scheduler->RunOnce();
  EXPECT_EQ(rig.timings[1].prompt_rows, 0);
  EXPECT_EQ(rig.timings[1].decode_rows, 6);
  EXPECT_EQ(rig.timings[1].draft_rows, 4);
  EXPECT_EQ(rig.timings[1].accepted_rows, 2);
  EXPECT_EQ(rig.timings[1].duration_us, 1000 + 6 * 300 + 200);
  const SchedulerStats stats = rig.scheduler->stats();
  EXPECT_EQ(stats.drafts.rounds, 2);
  EXPECT_EQ(stats.drafts.rounds_with_draft, 1);
  EXPECT_EQ(stats.drafts.drafted, 4);
  EXPECT_EQ(stats.drafts.accepted, 2);
  EXPECT_EQ(stats.drafting, 1);
  EXPECT_EQ(stats.draft_tokens, 4.0);
  rig.Turns();
  EXPECT_EQ(rig.Of(0).stats.drafts.drafted, 0);
  EXPECT_EQ(rig.Of(0).stats.drafts.rounds, 39);
  EXPECT_EQ(rig.scheduler->stats().drafts.drafted, rig.Of(1).stats.drafts.drafted);
  rig.ExpectAllRight();
}

TEST(DraftStatsTest, ThePolicyIsToldWhatGuessesWereWorth) {
  // Given a request in auto mode beside a plain one, after ten rounds.
  DraftRig rig(4, RightFor(2));
  rig.Start();
  rig.device->decode_row_us = 10;
  Request request = rig.NewRequest(10, 100);
  request.speculation.mode = Mode::kOff;
  rig.Submit(request);
  request.speculation.mode = Mode::kAuto;
  rig.Submit(request);
  rig.Turns(12);
  const StepRecord record = rig.scheduler->RecentSteps().back();
  EXPECT_EQ(record.input.step, record.step);
  // Then its own history and the one of all know of them, and the plain one's is empty.
  ASSERT_THAT(record.input.seated, testing::SizeIs(2));
  EXPECT_EQ(record.input.seated[0].wish->mode, Mode::kOff);
  EXPECT_EQ(record.input.seated[0].wish->max_tokens, 0);
  EXPECT_EQ(record.input.seated[0].wish->history, DraftHistory{});
  const DraftHistory& history = record.input.seated[1].wish->history;
  EXPECT_GT(history.rounds, 5);
  EXPECT_GT(history.places[0].held, history.places[2].held);
  EXPECT_NE(record.input.draft_prior, DraftPrior{});
}

TEST(DraftStatsTest, TimeSpentDraftingIsNotTakenForTheTargets) {
  // Given a drafter that takes a second a step.
  DraftRig rig(2);
  rig.Start();
  rig.device->draft_step_us = 1'000'000;
  rig.Submit(10, 40);
  rig.Turns(10);
  // Then a step of three rows is known to cost 1.9 ms, and the drafter's forward a second.
  const CostModel cost = rig.scheduler->RecentSteps().back().input.cost;
  EXPECT_NEAR(DecodeStepUs(cost, 3), 1900, 10);
  double draft_us[2];
  DraftStepsUs(cost, draft_us);
  EXPECT_NEAR(draft_us[1], 1e6, 1e5);
}

TEST(DraftStatsTest, CostsThatWereMeasuredBeforeAreKnownFromTheFirstStepOn) {
  Rig rig;
  rig.Start();
  CostModel cost;
  Observe(cost, 0, 1, 4321);
  Scheduler scheduler(
      rig.config, rig.limits, rig.device->AsRunStep(), [&] { return rig.device->now_us; }, {},
      cost);
  Recorder recorder(rig.NewRequest(10, 5));
  ASSERT_TRUE(scheduler.Submit(recorder.request, recorder.Sink()).ok());
  scheduler.RunOnce();
  EXPECT_EQ(DecodeStepUs(scheduler.RecentSteps()[0].input.cost, 1), 4321);
}

TEST(DraftStatsTest, ASequenceWhoseGuessesCeaseToPayIsCountedOnce) {
  // Given a machine where verifying is cheap, and a drafter that is right for 40 tokens and then
  // always wrong.
  DraftRig rig(
      4, [](const GuessQuery& query) { return RightFor(query.position < 50 ? 4 : 0)(query); });
  rig.Start();
  rig.device->decode_row_us = 10;
  Request request = rig.NewRequest(10, 180);
  request.speculation.mode = Mode::kAuto;
  rig.Submit(request);
  rig.Turns();
  EXPECT_EQ(rig.scheduler->stats().draft_auto_off_total, 1);
  EXPECT_GT(rig.Of(0).stats.drafts.accepted, 10);
  EXPECT_LT(rig.Of(0).stats.drafts.rounds_with_draft, 60);
  rig.ExpectAllRight();
}

TEST(DraftContractTest, AnEngineThatGuessesMoreThanAskedHasFailed) {
  DraftRig rig(2, [](const GuessQuery&) { return engine::Draft{.ids = {1, 2, 3}}; });
  rig.Start();
  rig.Submit(10, 20);
  rig.scheduler->RunOnce();
  EXPECT_EQ(rig.ReasonOf(0), "ENGINE_FAILURE");
  rig.ExpectEmpty();
}

}  // namespace
}  // namespace tandem::scheduler
