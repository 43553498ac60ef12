// The round with drafts, one behaviour at a time: what goes out, where it ends, what breaks.
// Drafts never change what a request is sent (Rig::ExpectAllRight compares with plain decoding).
// The numbers T.. are those of mtp.md 5.3.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "scheduler/scheduler.h"
#include "scheduler/status_reason.h"
#include "scheduler/step_log.h"
#include "tests/scheduler/draft_rig.h"

namespace tandem::scheduler {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::Pair;
using testing::SizeIs;
using Mode = Speculation::Mode;

TEST(DraftRoundTest, ARoundSendsWhatHeldAndOneTokenMoreInOneEvent) {
  for (int right = 0; right <= 4; ++right) {
    // Given a drafter whose first `right` guesses of 4 hold.
    DraftRig rig(4, RightFor(right));
    rig.Start();
    rig.Submit(10, 21);
    rig.Turns();
    // Then the prompt's step gives a token, and every round right + 1 of the other 20, until drafts
    // get shorter towards the end.
    const std::vector<int>& events = rig.Of(0).choices[0].events;
    ASSERT_GT(events.size(), 4u);
    EXPECT_EQ(events[0], 1);
    for (int round = 1; round <= 3; ++round) EXPECT_EQ(events[round], right + 1);
    const DraftCounts& drafts = rig.Of(0).stats.drafts;
    EXPECT_EQ(drafts.rounds, static_cast<int64_t>(events.size()) - 1);
    EXPECT_EQ(drafts.rounds + drafts.accepted, 20);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(drafts.accepted_at[i], i < right ? drafts.drafted_at[i] : 0) << "place " << i;
    }
    rig.ExpectAllRight();
  }
}

TEST(DraftRoundTest, AnOracleIsNeverRefused) {
  // Given requests with all that changes what is drawn, and a drafter that knows it.
  DraftRig rig(7);
  rig.Start();
  for (int i = 0; i < 4; ++i) {
    Request request = rig.NewRequest(10 + i, 60 + i);
    request.sampling.seed = i;
    request.sampling.presence_penalty = i % 2 == 0 ? 0.5f : 0.0f;
    request.n = 1 + i % 2;
    request.stop.min_tokens = 10 * i;
    rig.Submit(request);
  }
  rig.Turns();
  const DraftCounts drafts = rig.scheduler->stats().drafts;
  EXPECT_EQ(drafts.accepted, drafts.drafted);
  EXPECT_GT(drafts.accepted, 200);
  rig.ExpectAllRight();
}

// T27.
TEST(DraftOptionsTest, OneMeansOneGuessZeroNoneAndMoreThanTheServerHasIsClamped) {
  const struct {
    int server, request;
    Mode mode;
    int asked;  // by each round; 0: never
  } cases[] = {
      {4, 1, Mode::kFixed, 1},   {4, 4, Mode::kFixed, 4}, {4, 5, Mode::kFixed, 4},
      {4, 999, Mode::kFixed, 4}, {1, 4, Mode::kFixed, 1}, {16, 16, Mode::kFixed, 16},
      {4, 0, Mode::kFixed, 0},   {4, 0, Mode::kAuto, 0},  {4, -1, Mode::kFixed, 0},
      {4, 4, Mode::kOff, 0},     {0, 4, Mode::kFixed, 0}, {0, 4, Mode::kAuto, 0},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(absl::StrCat("server ", c.server, ", request ", c.request));
    DraftRig rig(c.server);
    rig.Start();
    Request request = rig.NewRequest(10, 60);
    request.speculation = {.mode = c.mode, .max_draft_tokens = c.request};
    rig.Submit(request);
    rig.Turns(2);  // the prompt, and a round
    ASSERT_THAT(rig.device->step_asked, SizeIs(2));
    const std::vector<int> expected = c.asked > 0 ? std::vector<int>{c.asked} : std::vector<int>();
    EXPECT_THAT(rig.device->step_asked, Each(expected));
    EXPECT_EQ(rig.device->step_drafts[1][0], c.asked);
    rig.Turns();
    EXPECT_EQ(rig.Of(0).stats.drafts.drafted > 0, c.asked > 0);
    EXPECT_EQ(rig.Of(0).stats.drafts.rounds > 0, true);
    rig.ExpectAllRight();
  }
}

TEST(DraftOptionsTest, TowardsItsEndARequestIsGuessedNoMoreThanItCanUse) {
  // Given a request for 8 tokens, by its limit or by the context's, whose guesses never hold.
  for (const bool by_context : {false, true}) {
    DraftRig rig(4, kAllWrong);
    if (by_context) rig.limits.max_context = 12 + 8;
    rig.Start();
    rig.Submit(12, by_context ? 100 : 8);
    rig.Turns();
    // Then each step asks for no more than the next round can send beside its own token, and no
    // guess was in vain but for not holding.
    EXPECT_THAT(rig.device->step_asked,
                ElementsAre(ElementsAre(4), ElementsAre(4), ElementsAre(4), ElementsAre(3),
                            ElementsAre(2), ElementsAre(1), ElementsAre(), ElementsAre()));
    EXPECT_EQ(rig.Of(0).stats.drafts.discarded, 0);
    EXPECT_EQ(rig.Of(0).stats.drafts.drafted, 18);
    // And the policy does not count on a sequence that ends with the step.
    const std::vector<StepRecord> records = rig.scheduler->RecentSteps();
    EXPECT_TRUE(records[6].input.seated[0].wish.has_value());
    EXPECT_FALSE(records[7].input.seated[0].wish.has_value());
    rig.ExpectAllRight();
  }
}

// T14: stops found by the scheduler.
TEST(StopInsideARunTest, WhateverEndsAChoiceAtAnyOffsetNothingBehindItIsCounted) {
  constexpr int kDrafts = 4;
  for (const char* kind : {"eos", "stop id", "max_tokens", "context"}) {
    for (int offset = 0; offset <= kDrafts; ++offset) {
      SCOPED_TRACE(absl::StrCat(kind, " at offset ", offset));
      // Given a request whose second full round meets its end at this offset: token 0 comes with
      // the prompt, 1 to 5 in the first round.
      const int last = 1 + (kDrafts + 1) + offset;
      DraftRig rig(kDrafts);
      const std::string what = kind;
      if (what == "context") rig.limits.max_context = 12 + last + 1;
      rig.Start();
      Request request = rig.NewRequest(12, what == "max_tokens" ? last + 1 : 100);
      request.sampling.frequency_penalty = 0.5f;
      Request endless = request;
      endless.stop.max_tokens = 20;
      const std::vector<int32_t> ids = ExpectedChoice(endless, 0, rig.limits).ids;
      if (what == "eos") request.stop.eos_ids = {ids[last]};
      if (what == "stop id") request.stop.stop_ids = {ids[last]};
      rig.Submit(request);
      rig.Turns();
      // Then it has all tokens up to its end and none behind it, in text and in every count.
      const Recorder& got = rig.Of(0);
      EXPECT_EQ(got.tokens, last + 1);
      EXPECT_EQ(got.stats.completion_tokens, last + 1);
      EXPECT_THAT(got.choices[0].events, ElementsAre(1, kDrafts + 1, offset + 1));
      EXPECT_EQ(got.stats.drafts.rounds, 2);
      // Of the second draft only the guesses up to the end count, all of which held.
      const int judged = std::min(kDrafts, what == "max_tokens" || what == "context"
                                               ? offset  // it was no longer than what was left
                                               : offset + 1);
      EXPECT_EQ(got.stats.drafts.drafted, kDrafts + judged);
      EXPECT_EQ(got.stats.drafts.accepted, kDrafts + judged);
      rig.ExpectAllRight();
    }
  }
}

// T14: what ends a request between two steps, when guesses are at hand.
TEST(StopInsideARunTest, WhatComesBetweenStepsDropsTheGuessesAtHand) {
  const std::function<void(DraftRig&, RequestId)> ends[] = {
      [](DraftRig& rig, RequestId id) { rig.scheduler->StopChoice(id, 0); },
      [](DraftRig& rig, RequestId id) { rig.scheduler->Cancel(id, CancelCause::kClientGone); },
      [](DraftRig& rig, RequestId id) { rig.scheduler->Cancel(id, CancelCause::kAborted); },
      [](DraftRig& rig, RequestId) { rig.device->now_us = 500'000; },  // its deadline
      [](DraftRig& rig, RequestId) { rig.device->now_us = 400'000; },  // its time limit
      [](DraftRig& rig, RequestId) { rig.scheduler->Stop(); },
  };
  for (const auto& end : ends) {
    // Given a request with 11 tokens out and 4 guesses at hand, and a neighbour.
    DraftRig rig;
    rig.Start();
    Request request = rig.NewRequest(12, 150);
    request.deadline_us = 500'000;
    request.stop.time_limit_us = 400'000;
    const RequestId id = rig.Submit(request);
    rig.TurnsUntilTokens(0, 11);
    ASSERT_EQ(rig.Of(0).finished, 0);
    const int64_t verified = rig.scheduler->stats().drafts.drafted;
    // When it is ended, then it is sent nothing more, and the guesses count as never verified.
    end(rig, id);
    EXPECT_FALSE(rig.scheduler->RunOnce());
    EXPECT_EQ(rig.Of(0).finished, 1);
    EXPECT_EQ(rig.Of(0).tokens, 11);
    EXPECT_EQ(rig.Of(0).stats.drafts.drafted, verified);
    EXPECT_EQ(rig.Of(0).stats.drafts.discarded, 4);
    rig.ExpectAllRight();
  }
}

// T26: the target's own rows.
TEST(BrokenRowTest, AtAnyOffsetOfARunTheTokensBeforeItAreSentAndTheRequestFails) {
  for (int offset = 0; offset <= 4; ++offset) {
    SCOPED_TRACE(absl::StrCat("offset ", offset));
    // Given logits that are broken for the token at this offset of the second round.
    DraftRig rig;
    rig.Start();
    const int tokens = 6 + offset;
    rig.device->broken = [&](int64_t position) { return position == 12 + tokens; };
    rig.Submit(12, 50);
    rig.Submit(10, 8);
    rig.Turns();
    EXPECT_EQ(rig.Of(0).tokens, tokens);
    EXPECT_EQ(rig.ReasonOf(0), "NUMERIC_FAILURE");
    EXPECT_THAT(
        GetReason(rig.Of(0).status).metadata,
        ElementsAre(Pair("position", absl::StrCat(12 + tokens - 1)), Pair("step", testing::_)));
    // The neighbour does not notice.
    EXPECT_TRUE(rig.Of(1).status.ok());
    rig.ExpectAllRight();
  }
}

TEST(BrokenRowTest, ARowThatPlainDecodingWouldNotHaveReachedHarmsNobody) {
  // Given logits that are broken behind the end of a choice, inside the round that ends it.
  DraftRig rig;
  rig.Start();
  Request request = rig.NewRequest(12, 50);
  request.stop.stop_ids = {ExpectedChoice(request, 0, rig.limits).ids[7]};
  rig.device->broken = [&](int64_t position) { return position == 12 + 8; };
  rig.Submit(request);
  rig.Turns();
  EXPECT_EQ(rig.Of(0).choices[0].reason, FinishReason::kStopToken);
  EXPECT_EQ(rig.Of(0).tokens, 8);
  EXPECT_TRUE(rig.Of(0).status.ok());
  rig.ExpectAllRight();
}

TEST(BrokenRowTest, ARowBehindAGuessThatDidNotHoldHarmsNobody) {
  // Given a drafter that is always wrong, and logits that are broken wherever a wrong guess leads:
  // the device calls any row behind a rejected guess broken, or answers nonsense for it.
  DraftRig rig(4, kAllWrong);
  rig.Start();
  rig.Submit(12, 30);
  rig.Turns();
  EXPECT_TRUE(rig.Of(0).status.ok());
  EXPECT_EQ(rig.Of(0).stats.drafts.accepted, 0);
  rig.ExpectAllRight();
}

// T26: the drafter's.
TEST(BrokenDraftTest, ItIsCountedAndTheSequenceDecodesPlainly) {
  // Given a drafter whose second and third draft meet a NaN, the third before its first guess.
  DraftRig rig;
  int drafts = 0;
  rig.guess = [&](const GuessQuery& query) {
    engine::Draft draft = kAllRight(query);
    if (++drafts == 2 || drafts == 3) draft.finite = false;
    if (drafts == 2) draft.ids.resize(2);
    if (drafts == 3) draft.ids.clear();
    return draft;
  };
  rig.Start();
  rig.Submit(12, 20);
  rig.Turns();
  // Then the rounds after them ran one row, and drafting went on.
  EXPECT_THAT(rig.Of(0).choices[0].events, ElementsAre(1, 5, 1, 1, 5, 5, 2));
  EXPECT_EQ(rig.Of(0).stats.drafts.failed, 2);
  EXPECT_EQ(rig.scheduler->stats().drafts.failed, 2);
  EXPECT_EQ(rig.Of(0).stats.drafts.rounds, 6);
  EXPECT_EQ(rig.Of(0).stats.drafts.rounds_with_draft, 4);
  // The two guesses before the NaN, and three that were more than the last round had use for.
  EXPECT_EQ(rig.Of(0).stats.drafts.discarded, 2 + 3);
  rig.ExpectAllRight();
}

TEST(BrokenDraftTest, OneThatIsBrokenForeverIsSoonNotAskedAnyMore) {
  // Given a drafter that never gives anything, or only what is not finite.
  for (const bool finite : {true, false}) {
    DraftRig rig(
        4, [finite](const GuessQuery&) { return engine::Draft{.ids = {}, .finite = finite}; });
    rig.Start();
    rig.device->draft_step_us = 500;
    Request request = rig.NewRequest(12, 150);
    request.speculation.mode = Mode::kAuto;
    rig.Submit(request);
    rig.Turns();
    int asked = 0;
    for (const std::vector<int>& step : rig.device->step_asked) asked += !step.empty();
    EXPECT_LT(asked, 30);
    EXPECT_GT(asked, 0);
    rig.ExpectAllRight();
  }
}

}  // namespace
}  // namespace tandem::scheduler
