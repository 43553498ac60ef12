// The life of requests, one behaviour at a time, on a simulated clock and device.
#include "scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "scheduler/plan_step.h"
#include "scheduler/status_reason.h"
#include "scheduler/step_log.h"
#include "tests/scheduler/rig.h"

namespace tandem::scheduler {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Le;
using testing::Pair;
using testing::SizeIs;

TEST(SchedulerTest, ARequestRunsItsPromptInChunksAndThenTokenByToken) {
  // Given a prompt of 100 tokens and 64 rows a step.
  Rig rig;
  rig.Start();
  rig.Submit(100, 5);
  // When it has run.
  rig.Turns();
  // Then it took two chunks, the second of which gave the first token, and four decode steps.
  EXPECT_THAT(rig.device->step_prompt_rows, ElementsAre(64, 36, 0, 0, 0, 0));
  EXPECT_EQ(rig.Of(0).choices[0].reason, FinishReason::kMaxTokens);
  EXPECT_EQ(rig.Of(0).started, 1);
  EXPECT_TRUE(rig.Of(0).status.ok());
  rig.ExpectAllRight();
}

TEST(SchedulerTest, SequencesJoinAndLeaveAtEveryStep) {
  // Given one request decoding.
  Rig rig;
  rig.Start();
  rig.Submit(10, 20);
  rig.TurnsUntilTokens(0, 3);
  // When another one arrives, it decodes in the same steps after its chunk.
  rig.Submit(8, 3);
  rig.TurnsUntilTokens(1, 3);
  EXPECT_EQ(rig.Of(1).finished, 1);
  EXPECT_EQ(rig.Of(0).tokens, 6);
  // And the first one goes on alone.
  rig.Turns();
  rig.ExpectAllRight();
}

TEST(SchedulerTest, ChoicesShareASinkAndEndEachByItself) {
  Rig rig;
  rig.Start();
  Request request = rig.NewRequest(12, 9);
  request.n = 3;
  rig.Submit(request);
  rig.Turns();
  EXPECT_EQ(rig.Of(0).stats.completion_tokens, 27);
  EXPECT_NE(rig.Of(0).choices[0].ids, rig.Of(0).choices[1].ids);
  rig.ExpectAllRight();
}

TEST(SchedulerTest, StopStringsEndOneChoiceOfMany) {
  // Given two choices, two tokens each.
  Rig rig;
  rig.Start();
  Request request = rig.NewRequest(12, 9);
  request.n = 2;
  const RequestId id = rig.Submit(request);
  rig.TurnsUntilTokens(0, 4);
  // When the text layer stops one of them.
  rig.scheduler->StopChoice(id, 1);
  rig.Turns();
  // Then it got no more tokens; the other one ended by itself.
  EXPECT_EQ(rig.Of(0).choices[1].reason, FinishReason::kStopString);
  EXPECT_EQ(rig.Of(0).choices[1].ids.size(), 2u);
  EXPECT_EQ(rig.Of(0).choices[0].reason, FinishReason::kMaxTokens);
  rig.ExpectAllRight();
}

TEST(SchedulerTest, AStopIdEndsAChoiceAndIsReported) {
  // Given a request whose third token will be a stop id of the client.
  Rig rig;
  rig.Start();
  Request request = rig.NewRequest(12, 9);
  const int32_t third = ExpectedChoice(request, 0, rig.limits).ids[2];
  request.stop.stop_ids = {third};
  rig.Submit(request);
  rig.Turns();
  EXPECT_EQ(rig.Of(0).choices[0].reason, FinishReason::kStopToken);
  EXPECT_EQ(rig.Of(0).choices[0].stop_id, third);
  EXPECT_EQ(rig.Of(0).tokens, 3);
  rig.ExpectAllRight();
}

TEST(SchedulerTest, ScoringAPromptDrawsNothing) {
  Rig rig;
  rig.Start();
  Request request = rig.NewRequest(100, 0);
  request.prompt_logprobs.enabled = true;
  rig.Submit(request);
  rig.Turns();
  EXPECT_THAT(rig.Of(0).prompt_logprobs, SizeIs(99));
  EXPECT_EQ(rig.Of(0).tokens, 0);
  EXPECT_EQ(rig.Of(0).choices[0].reason, FinishReason::kMaxTokens);
  EXPECT_EQ(rig.Of(0).stats.ttft_us, 0);
  rig.ExpectAllRight();
}

TEST(SchedulerTest, EveryCauseOfCancellationHasItsStatus) {
  const struct {
    CancelCause cause;
    int tokens_before;
    absl::StatusCode code;
    const char* reason;
  } cases[] = {
      {CancelCause::kClientGone, 2, absl::StatusCode::kCancelled, "CLIENT_CANCELLED"},
      {CancelCause::kAborted, 0, absl::StatusCode::kCancelled, "ABORTED_BY_REQUEST"},
      {CancelCause::kAborted, 2, absl::StatusCode::kOk, ""},
      {CancelCause::kDeadline, 2, absl::StatusCode::kDeadlineExceeded, "DEADLINE"},
      {CancelCause::kDrain, 2, absl::StatusCode::kUnavailable, "SHUTTING_DOWN"},
      {CancelCause::kSlowConsumer, 2, absl::StatusCode::kAborted, "SLOW_CONSUMER"},
  };
  for (const auto& c : cases) {
    // Given a request with so many tokens out.
    Rig rig;
    rig.Start();
    const RequestId id = rig.Submit(12, 50);
    rig.TurnsUntilTokens(0, c.tokens_before);
    // When it is cancelled, twice, then it ends before another step runs.
    const int64_t steps = rig.device->steps;
    rig.scheduler->Cancel(id, c.cause);
    rig.scheduler->Cancel(id, c.cause);
    EXPECT_FALSE(rig.scheduler->RunOnce());
    EXPECT_EQ(rig.device->steps, steps);
    EXPECT_EQ(rig.Of(0).status.code(), c.code);
    EXPECT_EQ(rig.ReasonOf(0), c.reason);
    EXPECT_EQ(rig.Of(0).tokens, c.tokens_before);
    if (c.code == absl::StatusCode::kOk) {
      EXPECT_EQ(rig.Of(0).choices[0].reason, FinishReason::kAborted);
    }
    if (c.cause == CancelCause::kDrain) {
      EXPECT_THAT(GetReason(rig.Of(0).status).metadata,
                  ElementsAre(Pair("completion_tokens", "2")));
    }
    rig.ExpectAllRight();
  }
}

TEST(SchedulerTest, CancellingOneDoesNotTouchItsNeighbours) {
  Rig rig;
  rig.Start();
  rig.Submit(12, 30);
  const RequestId second = rig.Submit(20, 30);
  rig.Submit(15, 30);
  rig.TurnsUntilTokens(2, 5);
  rig.scheduler->Cancel(second, CancelCause::kClientGone);
  rig.scheduler->Cancel(12345, CancelCause::kClientGone);
  rig.scheduler->StopChoice(12345, 0);
  rig.Turns();
  EXPECT_EQ(rig.Of(0).tokens, 30);
  EXPECT_EQ(rig.Of(2).tokens, 30);
  rig.ExpectAllRight();
}

TEST(SchedulerTest, ADeadlineEndsARunningRequestAtTheNextBoundary) {
  Rig rig;
  rig.Start();
  Request request = rig.NewRequest(12, 100);
  request.deadline_us = 30'000;
  rig.Submit(request);
  rig.Turns();
  EXPECT_EQ(rig.Of(0).status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(rig.ReasonOf(0), "DEADLINE");
  EXPECT_GT(rig.Of(0).tokens, 0);
  EXPECT_GE(rig.device->now_us, 30'000);
  EXPECT_LE(rig.device->now_us, 32'000);  // one decode step
  rig.ExpectAllRight();
}

TEST(SchedulerTest, WaitingRequestsExpireInTheQueue) {
  // Given one slot, taken for long.
  Rig rig;
  rig.config.max_slots = 1;
  rig.Start();
  rig.Submit(12, 100);
  Request request = rig.NewRequest(10, 5);
  request.deadline_us = 20'000;
  rig.Submit(request);
  request.deadline_us = 50'000;
  request.queue_timeout_us = 25'000;
  rig.Submit(request);
  request = rig.NewRequest(10, 5);
  request.stop.time_limit_us = 30'000;
  rig.Submit(request);
  rig.Turns();
  // Then the others end without having started, each in its own way.
  EXPECT_EQ(rig.ReasonOf(1), "DEADLINE");
  EXPECT_EQ(rig.ReasonOf(2), "QUEUE_TIMEOUT");
  EXPECT_THAT(GetReason(rig.Of(2).status).metadata, ElementsAre(Pair("queue_ms", testing::_)));
  EXPECT_TRUE(rig.Of(3).status.ok());
  EXPECT_EQ(rig.Of(3).choices[0].reason, FinishReason::kTimeLimit);
  for (int i : {1, 2, 3}) EXPECT_EQ(rig.Of(i).started, 0);
  rig.ExpectAllRight();
}

TEST(SchedulerTest, AQueueTimeoutDoesNotApplyOnceARowHasRun) {
  Rig rig;
  rig.Start();
  Request request = rig.NewRequest(12, 60);
  request.queue_timeout_us = 10'000;
  rig.Submit(request);
  rig.Turns();
  EXPECT_TRUE(rig.Of(0).status.ok());
  rig.ExpectAllRight();
}

TEST(SchedulerTest, ATimeLimitKeepsWhatWasSent) {
  Rig rig;
  rig.Start();
  Request request = rig.NewRequest(12, 100);
  request.stop.time_limit_us = 40'000;
  rig.Submit(request);
  rig.Turns();
  EXPECT_TRUE(rig.Of(0).status.ok());
  EXPECT_EQ(rig.Of(0).choices[0].reason, FinishReason::kTimeLimit);
  EXPECT_GT(rig.Of(0).tokens, 10);
  rig.ExpectAllRight();
}

TEST(SchedulerTest, AFullQueueRefusesUntilSomebodyStarts) {
  // Given a queue of two and one slot.
  Rig rig;
  rig.config.max_slots = 1;
  rig.config.max_queued_requests = 2;
  rig.Start();
  EXPECT_NE(rig.Submit(10, 5), 0u);
  EXPECT_NE(rig.Submit(10, 5), 0u);
  EXPECT_EQ(rig.scheduler->stats().queued_requests, 2);
  EXPECT_EQ(rig.scheduler->stats().queued_prompt_tokens, 20);
  // When a third one comes, it is refused and its sink stays silent.
  EXPECT_EQ(rig.Submit(10, 5), 0u);
  EXPECT_EQ(rig.last_submit.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(GetReason(rig.last_submit).reason, "QUEUE_FULL");
  rig.recorders.pop_back();
  // And once the first has started there is room.
  rig.scheduler->RunOnce();
  EXPECT_NE(rig.Submit(10, 5), 0u);
  rig.Turns();
  rig.ExpectAllRight();
}

TEST(SchedulerTest, DrainingRefusesNewRequestsAndFinishesTheOthers) {
  Rig rig;
  rig.Start();
  rig.Submit(10, 5);
  rig.scheduler->BeginDrain();
  EXPECT_EQ(rig.Submit(10, 5), 0u);
  EXPECT_EQ(rig.last_submit.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(GetReason(rig.last_submit).reason, "DRAINING");
  EXPECT_TRUE(rig.scheduler->stats().draining);
  rig.recorders.pop_back();
  rig.Turns();
  EXPECT_TRUE(rig.Of(0).status.ok());
  rig.ExpectAllRight();
}

TEST(SchedulerTest, StoppingEndsEverybodyWithATypedStatus) {
  // Given one running, one waiting and one that is not even taken from the inbox.
  Rig rig;
  rig.config.max_slots = 1;
  rig.Start();
  rig.Submit(10, 50);
  rig.Submit(10, 50);
  rig.TurnsUntilTokens(0, 3);
  rig.Submit(10, 50);
  rig.scheduler->Stop();
  EXPECT_FALSE(rig.scheduler->RunOnce());
  for (int i : {0, 1, 2}) {
    EXPECT_EQ(rig.Of(i).status.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(rig.ReasonOf(i), "SHUTTING_DOWN");
  }
  rig.ExpectAllRight();
}

TEST(SchedulerTest, AFailedStepEndsEveryRequestAndRefusesNewOnes) {
  Rig rig;
  rig.config.max_slots = 1;
  rig.Start();
  rig.Submit(10, 50);
  rig.Submit(10, 50);
  rig.TurnsUntilTokens(0, 3);
  rig.Submit(10, 50);  // still in the inbox
  rig.device->next_status = absl::InternalError("device lost");
  rig.scheduler->RunOnce();
  for (int i : {0, 1, 2}) {
    EXPECT_EQ(rig.Of(i).status.code(), absl::StatusCode::kInternal);
    EXPECT_EQ(rig.ReasonOf(i), "ENGINE_FAILURE");
  }
  EXPECT_EQ(rig.Of(0).tokens, 3);
  EXPECT_TRUE(rig.scheduler->stats().engine_down);
  rig.ExpectAllRight();
  EXPECT_EQ(rig.Submit(10, 5), 0u);
  EXPECT_EQ(rig.last_submit.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(GetReason(rig.last_submit).reason, "ENGINE_DOWN");
}

TEST(SchedulerTest, AnEngineThatAnswersNonsenseHasFailed) {
  // Given engines that return too few tokens, or an id outside the vocabulary.
  for (const int id : {-1, 50'000, -2}) {
    Rig rig;
    rig.Start();
    Scheduler scheduler(
        rig.config, rig.limits,
        [id](const engine::StepBatch& batch, engine::StepResult& result) {
          if (id != -2) result.tokens.resize(batch.samples.size(), {.id = id});
          return absl::OkStatus();
        },
        [] { return int64_t{0}; });
    Recorder recorder(rig.NewRequest(10, 5));
    ASSERT_TRUE(scheduler.Submit(recorder.request, recorder.Sink()).ok());
    while (scheduler.RunOnce()) {
    }
    EXPECT_EQ(GetReason(recorder.status).reason, "ENGINE_FAILURE");
    EXPECT_EQ(scheduler.stats().blocks_used[engine::kFull], 0);
  }
}

TEST(SchedulerTest, LogitsThatAreNotFiniteEndOneRequestOnly) {
  // Given two requests, one of which reaches position 30, where logits are broken.
  Rig rig;
  rig.Start();
  rig.device->broken = [](int64_t position) { return position == 30; };
  Request request = rig.NewRequest(25, 20);
  request.n = 2;
  rig.Submit(request);
  rig.Submit(5, 20);
  rig.Turns();
  EXPECT_EQ(rig.Of(0).status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(rig.ReasonOf(0), "NUMERIC_FAILURE");
  EXPECT_THAT(GetReason(rig.Of(0).status).metadata,
              ElementsAre(Pair("position", "29"), Pair("step", testing::_)));
  EXPECT_TRUE(rig.Of(1).status.ok());
  EXPECT_EQ(rig.Of(1).tokens, 20);
  rig.ExpectAllRight();
}

TEST(SchedulerTest, ALoneSequenceEndsWithContextLengthWhereThePoolEnds) {
  // Given a pool of 12 full blocks of 8 tokens and a context of 200.
  Rig rig;
  rig.limits.num_blocks = {64, 12};
  rig.Start();
  EXPECT_EQ(rig.scheduler->max_sequence_tokens(), 96);
  rig.Submit(10, 500);
  rig.Turns();
  EXPECT_EQ(rig.Of(0).choices[0].reason, FinishReason::kContextLength);
  EXPECT_EQ(rig.Of(0).tokens, 86);
  // And a prompt that can never fit is refused at once.
  EXPECT_EQ(rig.Submit(96, 5), 0u);
  EXPECT_EQ(GetReason(rig.last_submit).reason, "EXCEEDS_KV_CAPACITY");
  rig.recorders.pop_back();
  rig.ExpectAllRight();
}

TEST(SchedulerTest, SlidingBlocksAreReleasedSoThatAWindowOfThemIsEnough) {
  // Given just the sliding blocks that one sequence needs between steps.
  for (const bool full : {true, false}) {
    Rig rig;
    rig.limits.num_blocks = {SlidingBlocksHeld(rig.limits), full ? 64 : 0};
    rig.Start();
    rig.Submit(150, 100);
    rig.Turns();
    EXPECT_EQ(rig.Of(0).choices[0].reason, FinishReason::kContextLength);
    EXPECT_EQ(rig.Of(0).tokens, 50);
    rig.ExpectAllRight();
  }
}

TEST(SchedulerTest, APreemptedRequestGoesOnWithoutRepetition) {
  // Given four requests that need 9 blocks each in the end, and 20 blocks.
  Rig rig;
  rig.limits.num_blocks = {0, 20};
  rig.Start();
  for (int i = 0; i < 4; ++i) {
    Request request = rig.NewRequest(20, 45);
    request.prompt_logprobs.enabled = true;
    request.sampling.frequency_penalty = 0.5f;
    rig.Submit(request);
  }
  rig.Turns();
  // Then some were preempted, never the oldest, and all is as it would have been alone.
  const SchedulerStats stats = rig.scheduler->stats();
  EXPECT_GT(stats.preemptions_total, 0);
  EXPECT_GT(stats.recomputed_tokens_total, 0);
  EXPECT_EQ(rig.Of(0).stats.preemptions, 0);
  EXPECT_GT(rig.Of(3).stats.preemptions, 0);
  EXPECT_GT(rig.Of(3).stats.recomputed_tokens, 0);
  EXPECT_EQ(stats.prompt_tokens_total, 80);
  EXPECT_EQ(stats.generated_tokens_total, 180);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(rig.Of(i).status.ok());
  rig.ExpectAllRight();
}

TEST(SchedulerTest, TooManyPreemptionsFailOneRequestOnly) {
  Rig rig;
  rig.limits.num_blocks = {0, 20};
  rig.config.max_preemptions = 0;
  rig.Start();
  for (int i = 0; i < 4; ++i) rig.Submit(20, 45);
  rig.Turns();
  EXPECT_TRUE(rig.Of(0).status.ok());
  EXPECT_EQ(rig.Of(3).status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(rig.ReasonOf(3), "KV_EXHAUSTED");
  rig.ExpectAllRight();
}

TEST(SchedulerTest, HigherPriorityIsServedFirst) {
  // Given one slot and three requests that arrive together.
  Rig rig;
  rig.config.max_slots = 1;
  rig.Start();
  for (const int priority : {-5, 0, 5}) {
    Request request = rig.NewRequest(10, 5);
    request.priority = priority;
    rig.Submit(request);
  }
  // Then they start in order of priority.
  rig.TurnsUntilTokens(2, 5);
  EXPECT_EQ(rig.Of(0).started + rig.Of(1).started, 0);
  rig.TurnsUntilTokens(1, 5);
  EXPECT_EQ(rig.Of(0).started, 0);
  rig.Turns();
  rig.ExpectAllRight();
}

TEST(SchedulerTest, ALowPriorityIsServedUnderAnEndlessStreamOfHighOnes) {
  // Given one slot, always wanted by urgent requests, and a request of the lowest priority. A point
  // is worth 1 ms of waiting, so 200 points are worth 200 ms.
  Rig rig;
  rig.config.max_slots = 1;
  rig.config.priority_point_us = 1000;
  rig.Start();
  Request low = rig.NewRequest(10, 5);
  low.priority = -100;
  rig.Submit(low);
  while (rig.Of(0).finished == 0 && rig.device->now_us < 1'000'000) {
    if (rig.scheduler->stats().queued_requests < 4) {
      Request high = rig.NewRequest(10, 5);
      high.priority = 100;
      rig.Submit(high);
    }
    rig.scheduler->RunOnce();
  }
  // Then it is served once those that came more than 200 ms later are behind it.
  EXPECT_EQ(rig.Of(0).finished, 1);
  EXPECT_GT(rig.Of(0).stats.queue_us, 190'000);
  EXPECT_LT(rig.Of(0).stats.queue_us, 260'000);
  rig.Turns();
  rig.ExpectAllRight();
}

TEST(SchedulerTest, WhileAnybodyDecodesStepsStayNearTheTarget) {
  // Given a machine with 1 ms for a decode row and 0.2 ms for a prompt row, and a target of 10 ms.
  Rig rig;
  rig.Start();
  rig.device->prompt_row_us = 200;
  rig.device->decode_row_us = 1000;
  rig.Submit(40, 150);
  rig.TurnsUntilTokens(0, 3);
  // When long prompts arrive.
  const size_t before = rig.timings.size();
  rig.Submit(190, 5);
  rig.Submit(190, 5);
  rig.Turns();
  // Then every step with a decoder keeps to 10 ms and uses most of it while a prompt is there.
  int full_steps = 0;
  for (size_t i = before; i < rig.timings.size(); ++i) {
    const StepTiming& timing = rig.timings[i];
    EXPECT_LE(timing.duration_us, 11'000) << "step " << i;
    EXPECT_GE(timing.decode_rows, 1);
    full_steps += timing.duration_us >= 9'000;
  }
  EXPECT_GE(full_steps, 8);  // 380 rows at 40 a step
  rig.ExpectAllRight();
}

TEST(SchedulerTest, TimesAreToldFromArrivalOn) {
  // Given a request that arrived 5 ms before it was taken.
  Rig rig;
  rig.Start();
  const Request request = rig.NewRequest(100, 3);
  rig.device->now_us = 5000;
  rig.Submit(request);
  rig.Turns();
  // Then: two chunks of 1000 + 100 a row, two decode steps of 1300.
  const RequestStats& stats = rig.Of(0).stats;
  EXPECT_EQ(stats.queue_us, 5000);
  EXPECT_EQ(stats.prefill_us, 12'000);
  EXPECT_EQ(stats.ttft_us, 17'000);
  EXPECT_EQ(stats.decode_us, 2600);
  EXPECT_EQ(stats.total_us, 19'600);
  EXPECT_EQ(stats.prompt_tokens, 100);
  EXPECT_EQ(stats.completion_tokens, 3);
}

TEST(SchedulerTest, StatsAndTheObserverTellWhatRan) {
  Rig rig;
  rig.Start();
  rig.Submit(100, 5);
  rig.Submit(10, 5);
  rig.scheduler->RunOnce();
  rig.scheduler->RunOnce();
  // Given the first prompt done and the second one too.
  SchedulerStats stats = rig.scheduler->stats();
  EXPECT_EQ(stats.running, 2);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_THAT(stats.blocks_total, ElementsAre(64, 64));
  EXPECT_EQ(stats.blocks_used[engine::kFull], 13 + 2);
  EXPECT_EQ(stats.prompt_tokens_total, 110);
  EXPECT_EQ(stats.generated_tokens_total, 2);
  EXPECT_EQ(stats.steps_total, 2);
  EXPECT_EQ(stats.last_step_us, 1000 + 46 * 100);
  rig.Turns();
  stats = rig.scheduler->stats();
  EXPECT_EQ(stats.choices_finished_total[static_cast<int>(FinishReason::kMaxTokens)], 2);
  EXPECT_EQ(stats.requests_finished_total[0], 2);
  ASSERT_THAT(rig.timings, SizeIs(6));
  EXPECT_EQ(rig.timings[0].prompt_rows, 64);
  EXPECT_EQ(rig.timings[0].decode_rows, 0);
  EXPECT_EQ(rig.timings[2].rows, 2);
  EXPECT_EQ(rig.timings[2].decode_rows, 2);
  EXPECT_EQ(rig.timings[2].duration_us, 1600);
}

TEST(SchedulerTest, RecordedStepsReplayToTheSamePlan) {
  // Given some traffic and a log of five steps.
  Rig rig;
  rig.config.step_log_size = 5;
  rig.limits.num_blocks = {0, 20};
  rig.Start();
  for (int i = 0; i < 4; ++i) rig.Submit(20, 45);
  rig.Turns(40);
  // When the log is replayed.
  const std::vector<StepRecord> records = rig.scheduler->RecentSteps();
  ASSERT_THAT(records, SizeIs(5));
  for (const StepRecord& record : records) {
    EXPECT_EQ(PlanStep(record.input), record.plan);
  }
  // Then it covers the last steps in order.
  EXPECT_EQ(records.back().step, rig.scheduler->stats().steps_total);
  EXPECT_EQ(records.front().step, records.back().step - 4);
}

}  // namespace
}  // namespace tandem::scheduler
