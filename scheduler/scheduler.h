// Continuous batching: sequences join and leave at every step.
//
// In        requests, cancellations, pauses, stops found in the text; from any thread.
// Out       TokenEvents through each request's sink; one StepBatch per step to the engine.
// Not here  who gets how many rows (plan_step.h), who may queue (admission.h), block bookkeeping
//           (kvcache/), text (server/).
// Threads   everything but Run and RunOnce from any thread; nothing waits for a step. Run, or
//           RunOnce, on one thread, which owns all sequence state, calls the engine, the sinks, the
//           observer and the answers to Describe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/step.h"
#include "scheduler/admission.h"
#include "scheduler/config.h"
#include "scheduler/cost_model.h"
#include "scheduler/request.h"
#include "scheduler/stats.h"

namespace tandem::scheduler {

struct StepRecord;  // step_log.h

// Monotonic microseconds. A simulation passes a clock of its own.
using Clock = std::function<int64_t()>;
int64_t MonotonicNowUs();

// Called on the scheduler's thread; each must return at once, and each may be absent.
struct SchedulerObserver {
  std::function<void(const StepTiming& timing)> on_step;  // after each step
  // After a Cancel that found its request: from the call to its blocks being free.
  std::function<void(CancelCause cause, int64_t us)> on_freed;
};

class Scheduler {
 public:
  // `config` and `limits` must pass Validate (config.h).
  //   cost  what steps cost, as far as it was measured before (warm_up.h); learnt further here
  Scheduler(const SchedulerConfig& config, const ModelLimits& limits, engine::RunStep run_step,
            Clock now_us = MonotonicNowUs, SchedulerObserver observer = {}, CostModel cost = {});
  ~Scheduler();  // after Run has returned; requests that are still open get no more events
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Takes a place in the queue, as soon as a message is parsed (grpc-surface 1.12).
  //   errors  kResourceExhausted  QUEUE_FULL, TENANT_LIMIT: Admission::Reserve
  //           kDeadlineExceeded   DEADLINE: it has passed
  //           kUnavailable        DRAINING after BeginDrain or Stop; ENGINE_DOWN after the engine
  //                               failed
  absl::StatusOr<Reservation> Reserve(const ReservationRequest& request);

  // Queues a request. On success the sink gets events until exactly one kFinished, the first ones
  // possibly before Submit returns; on an error it is never called. `request.arrival_us`, the
  // deadlines and the time limit are on this scheduler's clock (now_us()).
  //   reservation  from Reserve, also one from before BeginDrain; without one, Submit reserves
  //   errors  kInvalidArgument   EMPTY_PROMPT, BAD_TOKEN_ID, BAD_PARAMETER; PROMPT_TOO_LONG
  //                              {prompt_tokens, max_prompt_tokens}; EXCEEDS_KV_CAPACITY
  //                              {needed_blocks, total_blocks}: prompt + 1 token do not fit the
  //                              empty pools
  //           kDeadlineExceeded  DEADLINE; with config.reject_hopeless, DEADLINE_UNATTAINABLE
  //                              {predicted_ms, left_ms}: others are here, and even if what is
  //                              surely served before it runs as fast as measured, its first token
  //                              comes too late
  //           kUnavailable       DRAINING after Stop; ENGINE_DOWN
  //           those of Reserve   when Submit reserves
  absl::StatusOr<RequestId> Submit(Request request, EventSink sink, Reservation reservation);
  absl::StatusOr<RequestId> Submit(Request request, EventSink sink);

  // Ends a request before the next step is planned. Unknown and finished ids are ignored.
  //   kClientGone    CANCELLED CLIENT_CANCELLED
  //   kAborted       OK with kAborted choices once a token was sent, else CANCELLED
  //                  ABORTED_BY_REQUEST
  //   kDeadline      DEADLINE_EXCEEDED DEADLINE
  //   kDrain         UNAVAILABLE SHUTTING_DOWN {completion_tokens}
  //   kSlowConsumer  ABORTED SLOW_CONSUMER
  void Cancel(RequestId id, CancelCause cause);

  // The text layer found an end, kStopString or kToolCalls: nothing more is sent for this choice
  // but kChoiceFinished with it. Ignored when the choice has ended already; the text layer then
  // overrides the reason it was told (a stop string goes before kMaxTokens, grpc-surface 2.6).
  void StopChoice(RequestId id, int choice, FinishReason reason = FinishReason::kStopString);

  // The client reads too slowly: until Resume no row of the request runs. It keeps its seat and its
  // blocks until somebody else waits for them, and then does not get a seat again before Resume.
  // Deadlines, limits and cancellations hold on. Both are idempotent.
  void Pause(RequestId id);
  void Resume(RequestId id);

  // Asks where a request is. Answered at the next step boundary, on the scheduler's thread, or at
  // once, on this one, after Run has ended. nullopt: no such request is open.
  void Describe(RequestId id, std::function<void(std::optional<RequestView>)> answer);

  // Forgets the KV blocks that nobody holds and that were kept for requests to come. Answered as
  // Describe is, with how many they were, over both groups.
  void FlushPrefixCache(std::function<void(int64_t freed)> answer);

  // Refuses new reservations; requests that have one go on.
  void BeginDrain();
  // Ends every open request with SHUTTING_DOWN at the next boundary; then Run returns.
  void Stop();

  // Steps until Stop. Sleeps while nothing can run, for a second at most (stats.last_turn_us).
  // After a failed step every request ends with ENGINE_FAILURE and Run keeps answering
  // (stats.engine_down) until Stop.
  void Run();
  // One turn of the loop, for simulations: drain the inbox, expire, plan, run, commit.
  //   returns  whether a step ran. False: there is no request that is not paused, or everybody who
  //            was to run failed for having been preempted too often
  bool RunOnce();

  SchedulerStats stats() const;
  int64_t now_us() const;
  int max_sequence_tokens() const;  // MaxSequenceTokens(limits)

  // The last steps with everything that PlanStep was given, oldest first.
  std::vector<StepRecord> RecentSteps() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::scheduler
