#include "scheduler/scheduler.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "scheduler/cost_model.h"
#include "scheduler/end_status.h"
#include "scheduler/inbox.h"
#include "scheduler/plan_step.h"
#include "scheduler/published.h"
#include "scheduler/roster.h"
#include "scheduler/step_batch.h"
#include "scheduler/step_log.h"

namespace tandem::scheduler {
namespace {

// Whether the engine answered what it was asked.
absl::Status CheckResult(const engine::StepBatch& batch, const engine::StepResult& result,
                         int vocab_size) {
  if (result.tokens.size() != batch.samples.size()) {
    return absl::InternalError(absl::StrCat("the engine returned ", result.tokens.size(),
                                            " tokens for ", batch.samples.size(), " samples"));
  }
  for (const engine::SampledToken& token : result.tokens) {
    if (token.finite && (token.id < 0 || token.id >= vocab_size)) {
      return absl::InternalError(absl::StrCat("the engine returned token id ", token.id,
                                              " of a vocabulary of ", vocab_size));
    }
  }
  return absl::OkStatus();
}

}  // namespace

int64_t MonotonicNowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

struct Scheduler::Impl {
  Impl(const SchedulerConfig& config, const ModelLimits& limits, engine::RunStep run_step,
       Clock now_us, StepObserver observer)
      : limits(limits),
        run_step(std::move(run_step)),
        now_us(std::move(now_us)),
        observer(std::move(observer)),
        inbox(config.max_queued_requests),
        log(config.step_log_size),
        roster(config, limits, inbox.queue()) {
    Publish();
  }

  bool RunOnce();
  void DrainInbox(int64_t now);
  bool RunPlan(PlanInput input, int64_t begin_us);
  void Fail(const absl::Status& cause);
  void Publish();

  const ModelLimits limits;
  const engine::RunStep run_step;
  const Clock now_us;
  const StepObserver observer;
  Inbox inbox;
  StepLog log;
  Published<SchedulerStats> published;

  // Of the scheduler's thread.
  Roster roster;
  CostModel cost;
  int64_t steps = 0;
  int64_t last_step_us = 0;
  bool stopped = false;
};

void Scheduler::Impl::DrainInbox(int64_t now) {
  Inbox::Batch batch = inbox.Take();
  for (InboxMessage& message : batch.messages) {
    if (auto* submit = std::get_if<SubmitMessage>(&message)) {
      roster.Arrive(std::move(*submit));
    } else if (auto* cancel = std::get_if<CancelMessage>(&message)) {
      roster.Cancel(cancel->id, cancel->cause, now);
    } else if (auto* stop = std::get_if<StopChoiceMessage>(&message)) {
      roster.StopChoice(stop->id, stop->choice, now);
    }
  }
  if (inbox.engine_down()) roster.FailAll(EngineFailureStatus, now);
  if (batch.stop) {
    roster.CancelAll(CancelCause::kDrain, now);
    stopped = true;
  }
}

bool Scheduler::Impl::RunOnce() {
  const int64_t begin_us = now_us();
  DrainInbox(begin_us);
  roster.ExpireDue(begin_us);
  const bool ran = !roster.empty() && RunPlan(roster.Snapshot(cost), begin_us);
  roster.ForgetEnded();
  Publish();
  return ran;
}

// Steps 2 to 5 of a turn. False when everybody who was to run failed for being preempted too often.
bool Scheduler::Impl::RunPlan(PlanInput input, int64_t begin_us) {
  StepPlan plan = PlanStep(input);
  const std::vector<SeatRows> seats = roster.Apply(input, plan, begin_us);
  if (seats.empty()) return false;
  const engine::StepBatch batch = BuildStepBatch(seats);
  StepTiming timing;
  timing.rows = static_cast<int>(batch.ids.size());
  for (const SeatRows& seat : seats) {
    if (seat.rows == 1 && seat.sequence->kv_tokens >= seat.sequence->request->prompt_tokens()) {
      ++timing.decode_rows;
    }
  }
  timing.prompt_rows = timing.rows - timing.decode_rows;
  Publish();

  engine::StepResult result;
  const int64_t step_begin_us = now_us();
  absl::Status status = run_step(batch, result);
  const int64_t step_end_us = now_us();
  if (status.ok()) status = CheckResult(batch, result, limits.vocab_size);
  if (!status.ok()) {
    Fail(status);
    return true;
  }
  ++steps;
  last_step_us = timing.duration_us = step_end_us - step_begin_us;
  Observe(cost, timing.prompt_rows, timing.decode_rows, timing.duration_us);
  roster.Commit(seats, batch, std::move(result), steps, step_end_us);
  log.Add({.step = steps,
           .input = std::move(input),
           .plan = std::move(plan),
           .duration_us = timing.duration_us});
  if (observer) {
    timing.schedule_us = now_us() - begin_us - timing.duration_us;
    observer(timing);
  }
  return true;
}

void Scheduler::Impl::Fail(const absl::Status& cause) {
  spdlog::error("engine failed: step={} status=\"{}\"", steps + 1, cause.ToString());
  inbox.EngineFailed();
  roster.FailAll(EngineFailureStatus, now_us());
}

void Scheduler::Impl::Publish() {
  SchedulerStats stats;
  roster.FillStats(stats);
  stats.steps_total = steps;
  stats.last_step_us = last_step_us;
  stats.last_turn_us = now_us();
  published.Write(stats);
}

Scheduler::Scheduler(const SchedulerConfig& config, const ModelLimits& limits,
                     engine::RunStep run_step, Clock now_us, StepObserver observer)
    : impl_(std::make_unique<Impl>(config, limits, std::move(run_step), std::move(now_us),
                                   std::move(observer))) {}

Scheduler::~Scheduler() = default;

absl::StatusOr<RequestId> Scheduler::Submit(Request request, EventSink sink) {
  if (absl::Status status = CheckRequest(request, impl_->limits); !status.ok()) return status;
  return impl_->inbox.Submit(std::move(request), std::move(sink));
}

void Scheduler::Cancel(RequestId id, CancelCause cause) {
  impl_->inbox.Send(CancelMessage{.id = id, .cause = cause});
}

void Scheduler::StopChoice(RequestId id, int choice) {
  impl_->inbox.Send(StopChoiceMessage{.id = id, .choice = choice});
}

void Scheduler::BeginDrain() { impl_->inbox.BeginDrain(); }

void Scheduler::Stop() { impl_->inbox.Stop(); }

void Scheduler::Run() {
  while (true) {
    impl_->RunOnce();
    if (impl_->stopped) return;
    if (impl_->roster.empty()) impl_->inbox.Wait();
  }
}

bool Scheduler::RunOnce() { return impl_->RunOnce(); }

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = impl_->published.Read();
  const QueueCounts& queue = impl_->inbox.queue();
  stats.waiting = queue.sequences;
  stats.queued_requests = queue.requests;
  stats.queued_prompt_tokens = queue.prompt_tokens;
  stats.draining = impl_->inbox.draining();
  stats.engine_down = impl_->inbox.engine_down();
  return stats;
}

int64_t Scheduler::now_us() const { return impl_->now_us(); }

int Scheduler::max_sequence_tokens() const { return MaxSequenceTokens(impl_->limits); }

std::vector<StepRecord> Scheduler::RecentSteps() const { return impl_->log.Snapshot(); }

}  // namespace tandem::scheduler
