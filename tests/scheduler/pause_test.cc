// Slow readers, questions about requests, and how fast a cancelled one frees its blocks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "scheduler/scheduler.h"
#include "scheduler/status_reason.h"
#include "tests/scheduler/rig.h"

namespace tandem::scheduler {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;
using State = RequestView::State;

// The answer at the next boundary. Runs one turn.
std::optional<RequestView> Ask(Rig& rig, RequestId id) {
  std::optional<RequestView> view;
  int answers = 0;
  rig.scheduler->Describe(id, [&](std::optional<RequestView> answer) {
    view = answer;
    ++answers;
  });
  rig.scheduler->RunOnce();
  EXPECT_EQ(answers, 1);
  return view;
}

TEST(PauseTest, APausedRequestKeepsItsSeatAndBlocksAndGetsNoTokens) {
  // Given two requests decoding.
  Rig rig;
  rig.Start();
  const RequestId slow = rig.Submit(12, 40);
  rig.Submit(15, 20);
  rig.TurnsUntilTokens(1, 3);
  const int64_t blocks = rig.scheduler->stats().blocks_used[engine::kFull];
  const int tokens = rig.Of(0).tokens;
  // When one is paused, twice.
  rig.scheduler->Pause(slow);
  rig.scheduler->Pause(slow);
  rig.scheduler->RunOnce();
  // Then it counts as running and holds what it had, while the other one goes on to its end.
  EXPECT_EQ(rig.scheduler->stats().paused, 1);
  EXPECT_EQ(rig.scheduler->stats().running, 2);
  EXPECT_GE(rig.scheduler->stats().blocks_used[engine::kFull], blocks);
  rig.Turns();
  EXPECT_EQ(rig.Of(1).finished, 1);
  EXPECT_EQ(rig.Of(0).tokens, tokens);
  EXPECT_EQ(rig.scheduler->stats().running, 1);
  // And it goes on when it is resumed, as if nothing had been, without a preemption.
  rig.device->now_us += 5000;
  rig.scheduler->Resume(slow);
  rig.scheduler->Resume(slow);
  rig.Turns();
  EXPECT_TRUE(rig.Of(0).status.ok());
  EXPECT_EQ(rig.Of(0).stats.preemptions, 0);
  EXPECT_GE(rig.Of(0).stats.paused_us, 5000);
  EXPECT_LT(rig.Of(0).stats.paused_us, rig.Of(0).stats.total_us);
  EXPECT_EQ(rig.Of(1).stats.paused_us, 0);
  rig.ExpectAllRight();
}

TEST(PauseTest, AloneAndPausedNothingRuns) {
  Rig rig;
  rig.Start();
  const RequestId id = rig.Submit(12, 40);
  rig.TurnsUntilTokens(0, 3);
  rig.scheduler->Pause(id);
  const int64_t steps = rig.device->steps;
  EXPECT_FALSE(rig.scheduler->RunOnce());
  EXPECT_FALSE(rig.scheduler->RunOnce());
  EXPECT_EQ(rig.device->steps, steps);
  rig.scheduler->Resume(id);
  rig.Turns();
  rig.ExpectAllRight();
}

TEST(PauseTest, APausedRequestMakesRoomForAWaitingOneAndComesBackOnlyAfterResume) {
  // Given one seat, whose request is paused, and preemptions that are not allowed.
  Rig rig;
  rig.config.max_slots = 1;
  rig.config.max_preemptions = 0;
  rig.Start();
  const RequestId slow = rig.Submit(12, 40);
  rig.TurnsUntilTokens(0, 3);
  rig.scheduler->Pause(slow);
  // When another one comes, then it is served at once.
  rig.Submit(15, 5);
  rig.scheduler->RunOnce();
  EXPECT_EQ(rig.Of(1).started, 1);
  EXPECT_EQ(rig.scheduler->stats().preempted_now, 1);
  EXPECT_EQ(rig.scheduler->stats().waiting, 1);
  rig.Turns();
  // And the paused one does not take the free seat before it is resumed.
  EXPECT_EQ(rig.Of(1).finished, 1);
  EXPECT_EQ(rig.scheduler->stats().running, 0);
  EXPECT_EQ(rig.scheduler->stats().blocks_used[engine::kFull], 0);
  EXPECT_EQ(Ask(rig, slow)->state, State::kPaused);
  rig.scheduler->Resume(slow);
  rig.Turns();
  EXPECT_TRUE(rig.Of(0).status.ok()) << "being in the way must not count";
  EXPECT_EQ(rig.Of(0).stats.preemptions, 1);
  rig.ExpectAllRight();
}

TEST(PauseTest, APausedRequestGivesItsBlocksBeforeAnybodyElse) {
  // Given blocks for one and a half of three requests, and the oldest one paused.
  Rig rig;
  rig.limits.num_blocks = {0, 20};
  rig.config.max_preemptions = 0;
  rig.Start();
  const RequestId oldest = rig.Submit(40, 45);
  rig.TurnsUntilTokens(0, 2);
  rig.Submit(20, 45);
  rig.TurnsUntilTokens(1, 2);
  rig.scheduler->Pause(oldest);
  rig.Submit(20, 45);
  rig.Turns();
  EXPECT_TRUE(rig.Of(1).status.ok());
  EXPECT_TRUE(rig.Of(2).status.ok());
  EXPECT_EQ(rig.Of(1).stats.preemptions + rig.Of(2).stats.preemptions, 0);
  rig.scheduler->Resume(oldest);
  rig.Turns();
  EXPECT_EQ(rig.Of(0).stats.preemptions, 1);
  rig.ExpectAllRight();
}

TEST(PauseTest, PausedRequestsEndByDeadlineLimitOrCancellation) {
  // Given four paused requests, two of which were moved out of their seats.
  Rig rig;
  rig.config.max_slots = 2;
  rig.Start();
  Request request = rig.NewRequest(10, 100);
  request.deadline_us = 60'000;
  const RequestId by_deadline = rig.Submit(request);
  request = rig.NewRequest(10, 100);
  request.stop.time_limit_us = 70'000;
  const RequestId by_limit = rig.Submit(request);
  rig.TurnsUntilTokens(1, 2);
  rig.scheduler->Pause(by_deadline);
  rig.scheduler->Pause(by_limit);
  const RequestId by_cancel = rig.Submit(10, 100);
  request = rig.NewRequest(10, 100);
  request.queue_timeout_us = 50'000;
  const RequestId never_started = rig.Submit(request);
  rig.scheduler->Pause(never_started);
  rig.TurnsUntilTokens(2, 2);
  rig.scheduler->Pause(by_cancel);
  rig.Turns();
  // When time passes, then each ends in its own way.
  rig.device->now_us = 50'000;
  rig.Turns();
  EXPECT_EQ(rig.ReasonOf(3), "QUEUE_TIMEOUT");
  EXPECT_EQ(rig.Of(0).finished, 0);
  rig.device->now_us = 60'000;
  rig.Turns();
  EXPECT_EQ(rig.ReasonOf(0), "DEADLINE");
  EXPECT_EQ(rig.Of(1).finished, 0);
  rig.device->now_us = 70'000;
  rig.Turns();
  EXPECT_EQ(rig.Of(1).choices[0].reason, FinishReason::kTimeLimit);
  rig.scheduler->Cancel(by_cancel, CancelCause::kSlowConsumer);
  rig.Turns();
  EXPECT_EQ(rig.ReasonOf(2), "SLOW_CONSUMER");
  rig.ExpectAllRight();
}

TEST(PauseTest, UnknownRequestsAreIgnored) {
  Rig rig;
  rig.Start();
  const RequestId id = rig.Submit(10, 2);
  rig.Turns();
  rig.scheduler->Pause(id);
  rig.scheduler->Resume(id);
  rig.scheduler->Pause(777);
  rig.Turns();
  EXPECT_EQ(rig.scheduler->stats().paused, 0);
  EXPECT_FALSE(Ask(rig, id).has_value());
  EXPECT_FALSE(Ask(rig, 777).has_value());
}

TEST(DescribeTest, ARequestIsSeenThroughItsLife) {
  // Given one seat and two requests of long prompts.
  Rig rig;
  rig.config.max_slots = 1;
  rig.Start();
  const RequestId first = rig.Submit(150, 3);
  const RequestId second = rig.Submit(100, 3);
  const RequestId third = rig.Submit(10, 3);
  // Then before the first step nothing is known about speeds, and all wait.
  std::optional<RequestView> view;
  rig.scheduler->Describe(third, [&](std::optional<RequestView> answer) { view = answer; });
  rig.scheduler->RunOnce();
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->state, State::kQueued);
  EXPECT_EQ(view->queue_position, 2);
  EXPECT_EQ(view->eta_first_token_s, 0);
  EXPECT_EQ(view->prompt_tokens, 10);
  // When 64 rows have run, in 7.4 ms.
  view = Ask(rig, first);
  EXPECT_EQ(view->state, State::kPrefill);
  EXPECT_EQ(view->queue_position, 0);
  EXPECT_NEAR(view->eta_first_token_s, 86 * 7.4e-3 / 64 + 7.4e-3, 1e-4);
  EXPECT_EQ(view->age_us, 7400);
  view = Ask(rig, second);  // 128 have run: 22 and its own are left
  EXPECT_EQ(view->state, State::kQueued);
  EXPECT_EQ(view->queue_position, 0);
  EXPECT_NEAR(view->eta_first_token_s, 122 * 7.4e-3 / 64 + 7.4e-3, 1e-4);
  view = Ask(rig, first);
  EXPECT_EQ(view->state, State::kDecode);
  EXPECT_EQ(view->completion_tokens, 1);
  EXPECT_EQ(view->eta_first_token_s, 0);
  rig.Turns();
  EXPECT_FALSE(Ask(rig, first).has_value());
  rig.ExpectAllRight();
}

TEST(DescribeTest, APreemptedRequestSaysSo) {
  // Given four requests that do not fit together.
  Rig rig;
  rig.limits.num_blocks = {0, 20};
  rig.Start();
  RequestId last = 0;
  for (int i = 0; i < 4; ++i) last = rig.Submit(20, 45);
  while (rig.scheduler->stats().preempted_now == 0) rig.scheduler->RunOnce();
  const std::optional<RequestView> view = Ask(rig, last);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->state, State::kPreempted);
  EXPECT_GT(view->completion_tokens, 0);
  rig.Turns();
  rig.ExpectAllRight();
}

TEST(DescribeTest, AfterTheEndTheAnswerIsThatNothingIsKnown) {
  Rig rig;
  rig.Start();
  const RequestId id = rig.Submit(20, 45);
  int answers = 0;
  const auto expect_nothing = [&](std::optional<RequestView> view) {
    EXPECT_FALSE(view.has_value());
    ++answers;
  };
  rig.scheduler->Stop();
  rig.scheduler->RunOnce();
  EXPECT_EQ(answers, 0);
  rig.scheduler->Describe(id, expect_nothing);
  EXPECT_EQ(answers, 1);
}

TEST(CancelTest, TheTimeToFreeBlocksIsToldOncePerRequestThatWasFound) {
  Rig rig;
  rig.Start();
  const RequestId id = rig.Submit(12, 40);
  rig.TurnsUntilTokens(0, 3);
  // When it is cancelled twice, 700 us before the boundary, and so is nobody.
  rig.scheduler->Cancel(id, CancelCause::kClientGone);
  rig.scheduler->Cancel(id, CancelCause::kSlowConsumer);
  rig.scheduler->Cancel(4711, CancelCause::kAborted);
  rig.device->now_us += 700;
  rig.Turns();
  EXPECT_THAT(rig.freed, ElementsAre(Pair(CancelCause::kClientGone, 700)));
  rig.ExpectAllRight();
}

}  // namespace
}  // namespace tandem::scheduler
