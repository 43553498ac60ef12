// Continuous batching: sequences join and leave at every step.
//
// In        requests, cancellations and stops found in the text, from any thread.
// Out       TokenEvents through each request's sink; one StepBatch per step to the engine.
// Not here  who gets how many rows (plan_step.h), block bookkeeping (kvcache/), text (server/).
// Threads   Submit, Cancel, StopChoice, BeginDrain, Stop, stats and RecentSteps from any thread;
// they
//           never wait for a step. Run, or RunOnce, on one thread, which owns all sequence state,
//           calls the engine and calls the sinks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/step.h"
#include "scheduler/config.h"
#include "scheduler/request.h"
#include "scheduler/stats.h"

namespace tandem::scheduler {

struct StepRecord;  // step_log.h

// Monotonic microseconds. A simulation passes a clock of its own.
using Clock = std::function<int64_t()>;
int64_t MonotonicNowUs();

// Called after each step on the scheduler's thread; must return at once.
using StepObserver = std::function<void(const StepTiming& timing)>;

class Scheduler {
 public:
  // `config` and `limits` must pass Validate (config.h).
  Scheduler(const SchedulerConfig& config, const ModelLimits& limits, engine::RunStep run_step,
            Clock now_us = MonotonicNowUs, StepObserver observer = nullptr);
  ~Scheduler();  // after Run has returned; requests that are still open get no more events
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Queues a request. On success the sink gets events until exactly one kFinished, the first ones
  // possibly before Submit returns; on an error it is never called. `request.arrival_us`, the
  // deadlines and the time limit are on this scheduler's clock (now_us()).
  //   errors  kInvalidArgument    EMPTY_PROMPT, BAD_TOKEN_ID, BAD_PARAMETER; PROMPT_TOO_LONG
  //                               {prompt_tokens, max_prompt_tokens}; EXCEEDS_KV_CAPACITY
  //                               {needed_blocks, total_blocks}: prompt + 1 token do not fit the
  //                               empty pools
  //           kResourceExhausted  QUEUE_FULL {queued_requests, max_queued_requests}
  //           kUnavailable        DRAINING after BeginDrain or Stop; ENGINE_DOWN after the engine
  //                               failed
  absl::StatusOr<RequestId> Submit(Request request, EventSink sink);

  // Ends a request before the next step is planned. Unknown and finished ids are ignored.
  //   kClientGone    CANCELLED CLIENT_CANCELLED
  //   kAborted       OK with kAborted choices once a token was sent; CANCELLED ABORTED_BY_REQUEST
  //   else kDeadline      DEADLINE_EXCEEDED DEADLINE kDrain         UNAVAILABLE SHUTTING_DOWN
  //   {completion_tokens} kSlowConsumer  ABORTED SLOW_CONSUMER
  void Cancel(RequestId id, CancelCause cause);

  // The text layer found a stop string: nothing more is sent for this choice but kChoiceFinished
  // with kStopString. Ignored when the choice has ended already; the text layer then overrides the
  // reason it was told (a stop string goes before kMaxTokens, grpc-surface 2.6).
  void StopChoice(RequestId id, int choice);

  // Refuses new requests; those accepted go on.
  void BeginDrain();
  // Ends every open request with SHUTTING_DOWN at the next boundary; then Run returns.
  void Stop();

  // Steps until Stop. Sleeps while there is no request. After a failed step every request ends with
  // ENGINE_FAILURE and Run keeps answering (stats.engine_down) until Stop.
  void Run();
  // One turn of the loop, for simulations: drain the inbox, expire, plan, run, commit.
  //   returns  whether a step ran. False: no request is left, or all that were to run failed for
  //            having been preempted too often
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
