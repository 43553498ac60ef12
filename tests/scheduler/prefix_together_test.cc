// Equal prompts at the same time, choices of one prompt, and what is left when whoever computes for
// others is disturbed; blocks that several hold when there are too few (turboquant.md 3.7).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>

#include "tests/scheduler/draft_rig.h"
#include "tests/scheduler/rig.h"

namespace tandem::scheduler {
namespace {

using testing::ElementsAre;

TEST(TogetherTest, ChoicesOfOnePromptComputeItOnceAndEachItsLastToken) {
  for (const int prompt_tokens : {3, 8, 48, 50, 150}) {
    SCOPED_TRACE(prompt_tokens);
    // Given four choices of five tokens.
    Rig rig;
    rig.Start();
    Request request = rig.NewRequest(prompt_tokens, 5);
    request.n = 4;
    rig.Submit(request);
    // When they run.
    rig.Turns();
    // Then the prompt runs once, its last token for every choice, and then what they draw.
    EXPECT_EQ(rig.device->rows, prompt_tokens + 3 + 4 * 4);
    EXPECT_EQ(rig.device->copied_blocks, 3 * 2);
    EXPECT_EQ(rig.Of(0).stats.cached_prompt_tokens, 0);
    rig.ExpectAllRight();
  }
}

TEST(TogetherTest, EqualPromptsInFlightAreComputedOnce) {
  // Given four requests with the same prompt, of several tenants, that arrive together.
  Rig rig;
  rig.Start();
  Request request = rig.NewRequest(150, 3);
  for (const char* tenant : {"a", "b", "a", "c"}) {
    request.tenant = tenant;
    rig.Submit(request);
  }
  rig.Turns();
  // Then 150 rows run once, and the last one three times more.
  EXPECT_EQ(rig.device->rows, 150 + 3 + 4 * 2);
  EXPECT_EQ(rig.Of(0).stats.cached_prompt_tokens, 0);
  for (int i = 1; i < 4; ++i) EXPECT_EQ(rig.Of(i).stats.cached_prompt_tokens, 149);
  EXPECT_EQ(rig.scheduler->stats().prefix_hit_tokens_total, 3 * 149);
  rig.ExpectAllRight();
}

TEST(TogetherTest, ALatecomerTakesWhatIsThereAndComputesTheRestWithTheOthers) {
  // Given a prompt that has run for a step.
  Rig rig;
  rig.Start();
  const Request request = rig.NewRequest(190, 3);
  rig.Submit(request);
  rig.scheduler->RunOnce();
  // When the same comes again, and one that differs behind 100 tokens.
  rig.Submit(request);
  Request other = request;
  other.prompt[100] += 1;
  rig.Submit(other);
  rig.Turns();
  // Then the second computes its last token, and the third what comes behind the last full block
  // that it has in common with the first: this one's sliding layers no longer have the next.
  EXPECT_EQ(rig.Of(1).stats.cached_prompt_tokens, 189);
  EXPECT_EQ(rig.Of(2).stats.cached_prompt_tokens, 96);
  EXPECT_EQ(rig.device->rows, 190 + 1 + 94 + 3 * 2);
  rig.ExpectAllRight();
}

TEST(TogetherTest, WhoWaitsForAnotherKeepsRowsFreeForOthers) {
  // Given two equal prompts and another one, and a step of 64 rows.
  Rig rig;
  rig.Start();
  const Request request = rig.NewRequest(40, 3);
  rig.Submit(request);
  rig.Submit(request);
  rig.Submit(24, 3);
  // When one step has run, then the third had its rows, although the second came before it.
  rig.scheduler->RunOnce();
  EXPECT_EQ(rig.Of(0).tokens, 1);
  EXPECT_EQ(rig.Of(1).tokens, 0);
  EXPECT_EQ(rig.Of(2).tokens, 1);
  EXPECT_EQ(rig.scheduler->stats().running, 3);
  rig.Turns();
  rig.ExpectAllRight();
}

TEST(TogetherTest, WhenTheFirstIsCancelledTheNextGoesOnWhereItWas) {
  Rig rig;
  rig.Start();
  const Request request = rig.NewRequest(150, 3);
  const RequestId first = rig.Submit(request);
  rig.Submit(request);
  rig.Submit(request);
  rig.scheduler->RunOnce();
  EXPECT_EQ(rig.device->rows, 64);
  rig.scheduler->Cancel(first, CancelCause::kClientGone);
  rig.Turns();
  EXPECT_EQ(rig.device->rows, 150 + 1 + 2 * 2);
  EXPECT_EQ(rig.Of(1).stats.cached_prompt_tokens, 64);
  EXPECT_EQ(rig.Of(2).stats.cached_prompt_tokens, 149);
  EXPECT_EQ(rig.Of(1).CheckAgainstExpected(rig.limits), "");
  rig.ExpectEmpty();
}

TEST(TogetherTest, WhenTheFirstPausesTheNextGoesOnAndTheFirstTakesItOver) {
  Rig rig;
  rig.Start();
  const Request request = rig.NewRequest(150, 3);
  const RequestId first = rig.Submit(request);
  rig.Submit(request);
  rig.scheduler->RunOnce();
  rig.scheduler->Pause(first);
  rig.Turns();
  // Then the second has ended.
  EXPECT_EQ(rig.Of(1).finished, 1);
  EXPECT_EQ(rig.device->rows, 150 + 2);
  // When the first goes on, then it runs what is not in full blocks.
  rig.scheduler->Resume(first);
  rig.Turns();
  EXPECT_EQ(rig.device->rows, 150 + 2 + 6 + 2);
  EXPECT_EQ(rig.Of(0).stats.cached_prompt_tokens, 144 - 64);
  rig.ExpectAllRight();
}

TEST(TogetherTest, WhoDoesNotWantToWaitDoesNotWaitForAnothersRows) {
  // Given a prompt that runs, and the same from someone who wants to start at once.
  Rig rig;
  rig.Start();
  Request request = rig.NewRequest(30, 3);
  rig.Submit(request);
  request.reject_if_queued = true;
  rig.Submit(request);
  // When one step has run, then both have.
  rig.scheduler->RunOnce();
  EXPECT_EQ(rig.Of(1).started, 1);
  EXPECT_EQ(rig.device->rows, 60);
  rig.Turns();
  rig.ExpectAllRight();
}

TEST(TogetherTest, WhoWaitsWithoutARowHasNotStarted) {
  // Given a request that waits in its seat for another's rows.
  Rig rig;
  rig.Start();
  Request request = rig.NewRequest(190, 3);
  rig.Submit(request);
  request.queue_timeout_us = 1;
  rig.Submit(request);
  rig.scheduler->RunOnce();
  EXPECT_EQ(rig.scheduler->stats().running, 2);
  EXPECT_EQ(rig.Of(1).started, 0);
  EXPECT_EQ(rig.scheduler->stats().queued_requests, 1);
  // Then its queue timeout holds, and its seat is free again.
  rig.scheduler->RunOnce();
  EXPECT_EQ(rig.ReasonOf(1), "QUEUE_TIMEOUT");
  rig.Turns();
  EXPECT_TRUE(rig.Of(0).status.ok());
  rig.ExpectEmpty();
}

TEST(TogetherTest, APreemptedRequestComesBackForItsLastBlock) {
  // Given one seat, a request of 23 known tokens that pauses, and another that takes the seat.
  DraftRig rig;
  rig.config.max_slots = 1;
  rig.Start();
  const RequestId id = rig.Submit(12, 40);
  rig.TurnsUntilTokens(0, 11);
  rig.scheduler->Pause(id);
  rig.Submit(10, 5);
  rig.Turns();
  EXPECT_EQ(rig.scheduler->stats().preempted_now, 1);
  EXPECT_EQ(rig.scheduler->stats().blocks_used[engine::kFull], 0);
  // When it goes on, then it runs 7 rows: two full blocks were kept.
  rig.scheduler->Resume(id);
  rig.scheduler->RunOnce();
  EXPECT_EQ(rig.timings.back().prompt_rows, 7);
  rig.Turns();
  EXPECT_EQ(rig.Of(0).stats.recomputed_tokens, 6);
  // What it takes over from itself is not counted as cached.
  EXPECT_EQ(rig.Of(0).stats.cached_prompt_tokens, 0);
  rig.ExpectAllRight();
}

TEST(TogetherTest, WhatIsComputedAgainIsFoundAgain) {
  // Given one seat, a request that lost it, and nothing left of its blocks.
  Rig rig;
  rig.config.max_slots = 1;
  rig.Start();
  const Request request = rig.NewRequest(50, 10);
  const RequestId id = rig.Submit(request);
  rig.TurnsUntilTokens(0, 3);
  rig.scheduler->Pause(id);
  rig.Submit(10, 5);
  rig.Turns();
  rig.scheduler->FlushPrefixCache([](int64_t) {});
  // When it has run again, to its end.
  rig.scheduler->Resume(id);
  rig.Turns();
  EXPECT_EQ(rig.Of(0).stats.recomputed_tokens, 52);
  // Then its prompt can be found.
  rig.Submit(request);
  rig.Turns();
  EXPECT_EQ(rig.Of(2).stats.cached_prompt_tokens, 48);
  rig.ExpectAllRight();
}

TEST(TogetherTest, ManyMoreChoicesFitThanWithoutSharing) {
  // Given blocks for two sequences of 100 tokens, where four choices of 80 and 20 run.
  Rig rig;
  rig.limits.num_blocks = {0, 26};
  rig.Start();
  Request request = rig.NewRequest(80, 20);
  request.n = 4;
  rig.Submit(request);
  rig.Turns();
  // Then they ran together, all but the prompt's last token once.
  EXPECT_EQ(rig.Of(0).stats.preemptions, 0);
  EXPECT_EQ(rig.device->rows, 80 + 3 + 4 * 19);
  rig.ExpectAllRight();
}

TEST(TogetherTest, WithoutRoomForAllChoicesTheyStillEnd) {
  // Given pools that hold one choice and little more.
  for (const int blocks : {13, 14, 15, 17}) {
    SCOPED_TRACE(blocks);
    Rig rig;
    rig.limits.num_blocks = {5, blocks};
    rig.limits.window = 16;
    rig.Start();
    Request request = rig.NewRequest(70, 30);
    request.n = 4;
    rig.Submit(request);
    rig.Turns();
    rig.ExpectAllRight();
  }
}

TEST(TogetherTest, ARequestThatCanNeverFitIsRefused) {
  // Given a prompt in the cache, and one that goes on behind it for longer than the pool is.
  Rig rig;
  rig.limits.num_blocks = {0, 8};
  rig.Start();
  const Request request = rig.NewRequest(40, 3);
  rig.Submit(request);
  rig.Turns();
  Request longer = request;
  longer.prompt.resize(64, 5);
  EXPECT_EQ(rig.Submit(longer), 0u);
  EXPECT_EQ(GetReason(rig.last_submit).reason, "EXCEEDS_KV_CAPACITY");
  longer.prompt.resize(63);
  EXPECT_NE(rig.Submit(longer), 0u);
  rig.Turns();
  EXPECT_TRUE(rig.Of(2).status.ok());
}

}  // namespace
}  // namespace tandem::scheduler
