// Admission, deadlines and turns of tenants, through the scheduler.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "scheduler/scheduler.h"
#include "scheduler/status_reason.h"
#include "tests/scheduler/rig.h"

namespace tandem::scheduler {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

Reservation Reserve(Rig& rig, const ReservationRequest& request) {
  absl::StatusOr<Reservation> reservation = rig.scheduler->Reserve(request);
  EXPECT_TRUE(reservation.ok()) << reservation.status();
  return reservation.ok() ? *std::move(reservation) : Reservation();
}

TEST(ReserveTest, ARequestCountsFromItsReservationUntilItStarts) {
  // Given a reservation with an estimate.
  Rig rig;
  rig.Start();
  Reservation reservation = Reserve(rig, {.prompt_tokens = 77, .bytes = 231});
  EXPECT_EQ(rig.scheduler->stats().queued_requests, 1);
  EXPECT_EQ(rig.scheduler->stats().queued_prompt_tokens, 77);
  // When the request is submitted, the estimate is corrected.
  Request request = rig.NewRequest(10, 5);
  request.n = 2;
  rig.Submit(request, std::move(reservation));
  EXPECT_EQ(rig.scheduler->stats().queued_requests, 1);
  EXPECT_EQ(rig.scheduler->stats().queued_prompt_tokens, 20);
  EXPECT_EQ(rig.scheduler->stats().queued_bytes, 231);
  // And when it starts it counts no more.
  rig.scheduler->RunOnce();
  EXPECT_EQ(rig.scheduler->stats().queued_requests, 0);
  EXPECT_EQ(rig.scheduler->stats().queued_bytes, 0);
  rig.Turns();
  rig.ExpectAllRight();
}

TEST(ReserveTest, ARefusedOrCancelledRequestGivesItsPlaceBack) {
  Rig rig;
  rig.Start();
  Request empty = rig.NewRequest(0, 5);
  EXPECT_EQ(rig.Submit(empty, Reserve(rig, {.prompt_tokens = 5})), 0u);
  rig.recorders.pop_back();
  EXPECT_EQ(rig.scheduler->stats().queued_requests, 0);
  const RequestId id = rig.Submit(rig.NewRequest(10, 5), Reserve(rig, {.prompt_tokens = 5}));
  rig.scheduler->Cancel(id, CancelCause::kClientGone);
  rig.Turns();
  rig.ExpectAllRight();
}

TEST(ReserveTest, LimitsOfTheConfigurationHold) {
  Rig rig;
  rig.config.max_queued_tokens = 100;
  rig.config.max_queued_per_tenant = 2;
  rig.Start();
  Request request = rig.NewRequest(40, 5);
  request.tenant = "a";
  rig.Submit(request);
  EXPECT_EQ(GetReason(rig.scheduler->Reserve({.prompt_tokens = 61}).status()).reason, "QUEUE_FULL");
  rig.Submit(request);
  EXPECT_EQ(GetReason(rig.scheduler->Reserve({.tenant = "a"}).status()).reason, "TENANT_LIMIT");
  EXPECT_TRUE(rig.scheduler->Reserve({.tenant = "b"}).ok());
  rig.Turns();
  rig.ExpectAllRight();
}

TEST(ReserveTest, WhatWasReservedBeforeADrainIsServed) {
  // Given two reservations.
  Rig rig;
  rig.Start();
  Reservation before = Reserve(rig, {.prompt_tokens = 10});
  Reservation late = Reserve(rig, {.prompt_tokens = 10});
  // When the drain begins, then nobody gets a new one, and the first is good for a request.
  rig.scheduler->BeginDrain();
  EXPECT_EQ(GetReason(rig.scheduler->Reserve({}).status()).reason, "DRAINING");
  EXPECT_NE(rig.Submit(rig.NewRequest(10, 5), std::move(before)), 0u);
  rig.Turns();
  EXPECT_TRUE(rig.Of(0).status.ok());
  // But after the end the second is not.
  rig.scheduler->Stop();
  EXPECT_EQ(rig.Submit(rig.NewRequest(10, 5), std::move(late)), 0u);
  EXPECT_EQ(GetReason(rig.last_submit).reason, "DRAINING");
  rig.recorders.pop_back();
  rig.ExpectAllRight();
}

TEST(ReserveTest, AFailedEngineTakesNobody) {
  Rig rig;
  rig.Start();
  Reservation before = Reserve(rig, {.prompt_tokens = 10});
  rig.Submit(10, 5);
  rig.device->next_status = absl::InternalError("device lost");
  rig.scheduler->RunOnce();
  EXPECT_EQ(GetReason(rig.scheduler->Reserve({}).status()).reason, "ENGINE_DOWN");
  EXPECT_EQ(rig.Submit(rig.NewRequest(10, 5), std::move(before)), 0u);
  EXPECT_EQ(GetReason(rig.last_submit).reason, "ENGINE_DOWN");
  rig.recorders.pop_back();
  rig.ExpectAllRight();
}

TEST(DeadlineTest, WhatIsTooLateAlreadyIsNotQueued) {
  Rig rig;
  rig.Start();
  rig.device->now_us = 10'000;
  const absl::Status status = rig.scheduler->Reserve({.deadline_us = 10'000}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(GetReason(status).reason, "DEADLINE");
  Reservation reservation = Reserve(rig, {.deadline_us = 10'001});
  Request request = rig.NewRequest(10, 5);
  request.deadline_us = 10'001;
  rig.device->now_us = 10'001;
  EXPECT_EQ(rig.Submit(request, std::move(reservation)), 0u);
  EXPECT_EQ(GetReason(rig.last_submit).reason, "DEADLINE");
  rig.recorders.pop_back();
  rig.ExpectAllRight();
}

// A rig with 64 rows in 7.4 ms measured, and so many prompt tokens of tenant "a" waiting.
void MeasureAndQueue(Rig& rig, int queued_tokens) {
  rig.config.max_slots = 1;
  rig.Start();
  rig.Submit(150, 50);
  rig.scheduler->RunOnce();
  for (; queued_tokens > 0; queued_tokens -= 100) {
    Request request = rig.NewRequest(100, 5);
    request.tenant = "a";
    ASSERT_NE(rig.Submit(request), 0u);
  }
}

TEST(DeadlineTest, AHopelessRequestIsRefusedWithWhatIsPredicted) {
  // Given that 300 tokens wait, so that 100 more are done after 46.25 ms and a step of 7.4.
  Rig rig;
  rig.config.reject_hopeless = true;
  MeasureAndQueue(rig, 300);
  Request request = rig.NewRequest(100, 5);
  request.tenant = "a";
  // Then a deadline shortly after is accepted, and one shortly before is not.
  request.deadline_us = rig.device->now_us + 53'660;
  EXPECT_NE(rig.Submit(request), 0u) << rig.last_submit;
  rig.scheduler->Cancel(rig.recorders.size(), CancelCause::kClientGone);
  rig.scheduler->RunOnce();
  Rig again;
  again.config.reject_hopeless = true;
  MeasureAndQueue(again, 300);
  request.deadline_us = again.device->now_us + 53'640;
  EXPECT_EQ(again.Submit(request), 0u);
  EXPECT_EQ(again.last_submit.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(GetReason(again.last_submit).reason, "DEADLINE_UNATTAINABLE");
  EXPECT_THAT(
      GetReason(again.last_submit).metadata,
      ElementsAre(Pair("left_ms", "53"), Pair("predicted_ms", "53"), Pair("queue_ms", "0")));
  again.recorders.pop_back();
  EXPECT_EQ(again.scheduler->stats().queued_requests, 3);
}

TEST(DeadlineTest, NobodyIsCalledHopelessForWorkThatMayComeLater) {
  // Given the same queue, a request of a higher priority, and one of another tenant.
  Rig rig;
  rig.config.reject_hopeless = true;
  MeasureAndQueue(rig, 300);
  Request request = rig.NewRequest(100, 5);
  request.deadline_us = rig.device->now_us + 30'000;
  request.tenant = "a";
  request.priority = 1;
  EXPECT_NE(rig.Submit(request), 0u);
  request.priority = 0;
  request.tenant = "b";
  EXPECT_NE(rig.Submit(request), 0u);
  // But what does not even leave time for its own prompt is.
  request.deadline_us = rig.device->now_us + 18'000;
  EXPECT_EQ(rig.Submit(request), 0u);
  rig.recorders.pop_back();
}

TEST(DeadlineTest, AnIdleMachineTriesWhateverItThinksOfIt) {
  // Given a machine that was measured while it was very slow, and has nothing to do.
  Rig rig;
  rig.config.reject_hopeless = true;
  rig.Start();
  rig.device->prompt_row_us = 1'000'000;
  rig.Submit(100, 1);
  rig.Turns();
  rig.device->prompt_row_us = 100;
  // When a request comes that it believes hopeless, it is served, and more of them are believed in.
  Request request = rig.NewRequest(100, 1);
  request.deadline_us = rig.device->now_us + 20'000;
  EXPECT_NE(rig.Submit(request), 0u);
  const double slow = rig.scheduler->stats().prompt_tokens_per_s;
  EXPECT_EQ(rig.Submit(request), 0u);
  EXPECT_EQ(GetReason(rig.last_submit).reason, "DEADLINE_UNATTAINABLE");
  rig.recorders.pop_back();
  rig.Turns();
  EXPECT_TRUE(rig.Of(1).status.ok());
  EXPECT_GT(rig.scheduler->stats().prompt_tokens_per_s, slow);
  rig.ExpectAllRight();
}

TEST(DeadlineTest, BeforeSpeedIsKnownNobodyIsHopeless) {
  // Given steps that had rows to spare only.
  Rig rig;
  rig.config.reject_hopeless = true;
  rig.Start();
  rig.Submit(20, 5);
  rig.Turns();
  EXPECT_EQ(rig.scheduler->stats().prompt_tokens_per_s, 0);
  EXPECT_GT(rig.scheduler->stats().step_us, 0);
  Request request = rig.NewRequest(190, 5);
  request.deadline_us = rig.device->now_us + 1;
  EXPECT_NE(rig.Submit(request), 0u);
  rig.Turns();
  EXPECT_EQ(rig.ReasonOf(1), "DEADLINE");
  rig.ExpectAllRight();
}

TEST(RejectIfQueuedTest, WhatCannotStartInTheNextStepEnds) {
  // Given one seat, taken.
  Rig rig;
  rig.config.max_slots = 1;
  rig.Start();
  Request request = rig.NewRequest(10, 20);
  request.reject_if_queued = true;
  rig.Submit(request);
  rig.Submit(request);
  rig.scheduler->RunOnce();
  // Then the first one runs and the second one has ended.
  EXPECT_EQ(rig.Of(0).started, 1);
  EXPECT_EQ(rig.Of(1).finished, 1);
  EXPECT_EQ(rig.Of(1).started, 0);
  EXPECT_EQ(rig.Of(1).status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(rig.ReasonOf(1), "QUEUE_FULL");
  EXPECT_THAT(std::string(rig.Of(1).status.message()), testing::HasSubstr("reject_if_queued"));
  rig.Turns();
  EXPECT_TRUE(rig.Of(0).status.ok());
  rig.ExpectAllRight();
}

// Floods every seat and the queue with tenant "flood".
void Flood(Rig& rig, int requests, int prompt_tokens, int max_tokens) {
  for (int i = 0; i < requests; ++i) {
    Request request = rig.NewRequest(prompt_tokens, max_tokens);
    request.tenant = "flood";
    ASSERT_NE(rig.Submit(request), 0u) << rig.last_submit;
  }
}

TEST(TenantTest, ANewcomerStartsWithinTwoStepsBehindAFlood) {
  for (const int prompt_tokens : {10, 190}) {
    // Given 100 requests of one tenant waiting, and all seats taken by decoders, or all rows by
    // prompts.
    Rig rig;
    rig.config.max_queued_requests = 200;
    rig.Start();
    Flood(rig, 104, prompt_tokens, 9);
    rig.Turns(3);
    EXPECT_EQ(rig.scheduler->stats().running, prompt_tokens == 10 ? 4 : 2);
    rig.device->now_us += 1'000'000;
    // When another tenant's request comes.
    Request request = rig.NewRequest(50, 5);
    request.tenant = "newcomer";
    rig.Submit(request);
    const Recorder& newcomer = *rig.recorders.back();
    rig.Turns(2);
    EXPECT_EQ(newcomer.started, 1);
    // Then it keeps its seat until its end.
    while (newcomer.finished == 0 && rig.scheduler->RunOnce()) {
    }
    EXPECT_EQ(newcomer.stats.preemptions, 0);
    EXPECT_GE(rig.scheduler->stats().queued_requests, 90);
    rig.Turns();
    rig.ExpectAllRight();
  }
}

TEST(TenantTest, SwapsDoNotCountAsWantOfBlocks) {
  Rig rig;
  rig.config.max_preemptions = 0;
  rig.Start();
  Flood(rig, 4, 10, 30);
  rig.Turns(3);
  for (const char* tenant : {"b", "c"}) {
    Request request = rig.NewRequest(10, 5);
    request.tenant = tenant;
    rig.Submit(request);
  }
  rig.Turns();
  EXPECT_EQ(rig.scheduler->stats().preemptions_total, 2);
  for (size_t i = 0; i < rig.recorders.size(); ++i) EXPECT_TRUE(rig.Of(i).status.ok());
  EXPECT_EQ(rig.Of(0).stats.preemptions, 0);  // the flood's best
  EXPECT_EQ(rig.Of(3).stats.preemptions, 1);  // and its worst
  rig.ExpectAllRight();
}

TEST(TenantTest, TurnsCanBeTurnedOff) {
  Rig rig;
  rig.config.tenant_turn_us = 0;
  rig.config.max_queued_requests = 200;
  rig.Start();
  Flood(rig, 30, 10, 9);
  Request request = rig.NewRequest(10, 5);
  request.tenant = "newcomer";
  rig.Submit(request);
  rig.Turns();
  // Then it was served when its time came: all before it had started.
  EXPECT_EQ(rig.scheduler->stats().preemptions_total, 0);
  EXPECT_GT(rig.Of(30).stats.queue_us, rig.Of(26).stats.queue_us);
  rig.ExpectAllRight();
}

TEST(TenantTest, ABacklogThatIsOldEnoughGoesBeforeANewcomer) {
  // Given one seat, where a turn is worth 20 ms, and one request of each tenant waiting.
  Rig rig;
  rig.config.max_slots = 1;
  rig.config.tenant_turn_us = 20'000;
  rig.Start();
  Flood(rig, 2, 10, 30);
  rig.scheduler->RunOnce();
  rig.device->now_us = 21'000;
  Request request = rig.NewRequest(10, 5);
  request.tenant = "newcomer";
  rig.Submit(request);
  rig.TurnsUntilTokens(2, 1);
  EXPECT_EQ(rig.Of(1).finished, 1);
  rig.Turns();
  rig.ExpectAllRight();
}

}  // namespace
}  // namespace tandem::scheduler
