#include "scheduler/scheduler.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "scheduler/cost_model.h"
#include "scheduler/end_status.h"
#include "scheduler/inbox.h"
#include "scheduler/plan_step.h"
#include "scheduler/published.h"
#include "scheduler/roster.h"
#include "scheduler/segment_result.h"
#include "scheduler/step_batch.h"
#include "scheduler/step_log.h"

namespace tandem::scheduler {
namespace {

constexpr int64_t kMaxSleepUs = 1'000'000;
constexpr double kLongestPredictionS = 1e9;  // fits 64 bits of microseconds

// Tokens guessed for a sequence that asked; 0 when none did.
double MeanLength(const std::vector<engine::Draft>& drafts) {
  if (drafts.empty()) return 0;
  size_t sum = 0;
  for (const engine::Draft& draft : drafts) sum += draft.ids.size();
  return static_cast<double>(sum) / static_cast<double>(drafts.size());
}

}  // namespace

int64_t MonotonicNowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

struct Scheduler::Impl {
  Impl(const SchedulerConfig& config, const ModelLimits& limits, engine::RunStep run_step,
       Clock now_us, SchedulerObserver observer, CostModel cost)
      : config(config),
        limits(limits),
        run_step(std::move(run_step)),
        now_us(std::move(now_us)),
        observer(std::move(observer)),
        admission(std::make_shared<Admission>(config)),
        log(config.step_log_size),
        roster(config, limits, inbox.waiting_sequences()),
        cost(std::move(cost)) {
    Publish();
  }

  bool RunOnce();
  void DrainInbox(int64_t now);
  void CancelOne(const CancelMessage& message, int64_t now);
  bool RunPlan(int64_t begin_us);
  absl::Status CheckDeadline(const Request& request, const Reservation& reservation) const;
  void Fail(const absl::Status& cause);
  void ObserveCosts(const StepTiming& timing, const std::vector<SeatRows>& seats);
  void Publish();
  int64_t IdleUs() const;

  const SchedulerConfig config;
  const ModelLimits limits;
  const engine::RunStep run_step;
  const Clock now_us;
  const SchedulerObserver observer;
  const std::shared_ptr<Admission> admission;
  Inbox inbox;
  StepLog log;
  Published<SchedulerStats> published;

  // Of the scheduler's thread.
  Roster roster;
  CostModel cost;
  ServiceRate rate;
  int64_t steps = 0;
  int64_t last_step_us = 0;
  int64_t drafting = 0;     // as in SchedulerStats
  double draft_tokens = 0;  // as in SchedulerStats
  bool stopped = false;
};

void Scheduler::Impl::DrainInbox(int64_t now) {
  Inbox::Batch batch = inbox.Take();
  for (InboxMessage& message : batch.messages) {
    if (auto* submit = std::get_if<SubmitMessage>(&message)) {
      roster.Arrive(std::move(*submit));
    } else if (auto* cancel = std::get_if<CancelMessage>(&message)) {
      CancelOne(*cancel, now);
    } else if (auto* stop = std::get_if<StopChoiceMessage>(&message)) {
      roster.StopChoice(stop->id, stop->choice, stop->reason, now);
    } else if (auto* pause = std::get_if<PauseMessage>(&message)) {
      pause->paused ? roster.Pause(pause->id, now) : roster.Resume(pause->id, now);
    } else if (auto* describe = std::get_if<DescribeMessage>(&message)) {
      describe->answer(roster.Describe(describe->id, rate, now));
    } else if (auto* flush = std::get_if<FlushMessage>(&message)) {
      flush->answer(roster.FlushPrefixCache());
    }
  }
  if (inbox.engine_down()) roster.FailAll(EngineFailureStatus, now);
  if (batch.stop) {
    roster.CancelAll(CancelCause::kDrain, now);
    stopped = true;
  }
}

void Scheduler::Impl::CancelOne(const CancelMessage& message, int64_t now) {
  const bool found = roster.Cancel(message.id, message.cause, now);
  if (!found || !observer.on_freed) return;
  observer.on_freed(message.cause, std::max<int64_t>(0, now_us() - message.sent_us));
}

bool Scheduler::Impl::RunOnce() {
  const int64_t begin_us = now_us();
  DrainInbox(begin_us);
  roster.ExpireDue(begin_us);
  const bool ran = roster.can_run() && RunPlan(begin_us);
  roster.ForgetEnded();
  Publish();
  return ran;
}

// Steps 2 to 5 of a turn. False when everybody who was to run failed for being preempted too often.
bool Scheduler::Impl::RunPlan(int64_t begin_us) {
  Lineup lineup = roster.MakeLineup(cost, steps + 1);
  StepPlan plan = PlanStep(lineup.input);
  const std::vector<SeatRows> seats = roster.Apply(lineup, plan, begin_us);
  if (seats.empty()) return false;
  const engine::StepBatch batch = BuildStepBatch(seats);
  StepTiming timing;
  timing.rows = static_cast<int>(batch.ids.size());
  timing.drafting = static_cast<int>(batch.drafts.size());
  for (const SeatRows& seat : seats) {
    if (IsDecoding(*seat.sequence)) timing.decode_rows += seat.rows;
    timing.draft_rows += seat.drafts;
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
  timing.draft_steps = result.draft_steps;
  timing.draft_us = std::clamp<int64_t>(result.draft_us, 0, timing.duration_us);
  ObserveCosts(timing, seats);
  Observe(rate, timing.prompt_rows, plan.prompts_limited, step_end_us - begin_us);
  drafting = timing.drafting;
  draft_tokens = MeanLength(result.drafts);
  timing.accepted_rows = roster.Commit(seats, batch, std::move(result), steps, step_end_us);
  log.Add({.step = steps,
           .input = std::move(lineup.input),
           .plan = std::move(plan),
           .duration_us = timing.duration_us});
  if (observer.on_step) {
    timing.schedule_us = now_us() - begin_us - timing.duration_us;
    observer.on_step(timing);
  }
  return true;
}

void Scheduler::Impl::ObserveCosts(const StepTiming& timing, const std::vector<SeatRows>& seats) {
  Observe(cost, timing.prompt_rows, timing.decode_rows, timing.duration_us - timing.draft_us);
  std::vector<int> guesses;
  for (const SeatRows& seat : seats) {
    if (seat.guess > 0) guesses.push_back(seat.guess);
  }
  ObserveDrafting(cost, guesses, timing.draft_us);
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
  stats.step_us = rate.step_us;
  stats.prompt_tokens_per_s = rate.prompt_tokens_per_s;
  stats.last_turn_us = now_us();
  stats.drafting = drafting;
  stats.draft_tokens = draft_tokens;
  published.Write(stats);
}

// How long the loop may sleep: until the next deadline, so that it is kept.
int64_t Scheduler::Impl::IdleUs() const {
  return std::clamp<int64_t>(roster.next_due_us() - now_us(), 0, kMaxSleepUs);
}

// DEADLINE and DEADLINE_UNATTAINABLE. On the submitting thread.
absl::Status Scheduler::Impl::CheckDeadline(const Request& request,
                                            const Reservation& reservation) const {
  if (request.deadline_us == std::numeric_limits<int64_t>::max()) return absl::OkStatus();
  const int64_t now = now_us();
  if (now >= request.deadline_us) {
    return DeadlineStatus(std::max<int64_t>(0, now - request.arrival_us));
  }
  if (!config.reject_hopeless) return absl::OkStatus();
  const SchedulerStats stats = published.Read();
  // With nobody else here it may try: if it was the measurement that was wrong, this corrects it.
  if (stats.running == 0 && admission->counts().requests <= 1) return absl::OkStatus();
  const int64_t tokens =
      reservation.TokensAhead(request.priority) + static_cast<int64_t>(request.prompt.size());
  const double predicted_s = SecondsToFirstToken(
      {.prompt_tokens_per_s = stats.prompt_tokens_per_s, .step_us = stats.step_us}, tokens);
  const auto predicted_us = static_cast<int64_t>(1e6 * std::min(predicted_s, kLongestPredictionS));
  const int64_t left_us = request.deadline_us - now;
  if (predicted_us <= left_us) return absl::OkStatus();
  return DeadlineUnattainableStatus(predicted_us, left_us);
}

Scheduler::Scheduler(const SchedulerConfig& config, const ModelLimits& limits,
                     engine::RunStep run_step, Clock now_us, SchedulerObserver observer,
                     CostModel cost)
    : impl_(std::make_unique<Impl>(config, limits, std::move(run_step), std::move(now_us),
                                   std::move(observer), std::move(cost))) {}

Scheduler::~Scheduler() = default;

absl::StatusOr<Reservation> Scheduler::Reserve(const ReservationRequest& request) {
  if (impl_->inbox.engine_down()) return EngineDownStatus();
  if (impl_->inbox.draining()) return DrainingStatus();
  if (impl_->now_us() >= request.deadline_us) return DeadlineStatus(0);
  return impl_->admission->Reserve(request);
}

absl::StatusOr<RequestId> Scheduler::Submit(Request request, EventSink sink,
                                            Reservation reservation) {
  if (absl::Status status = CheckRequest(request, impl_->limits); !status.ok()) return status;
  const int64_t prompt_tokens = static_cast<int64_t>(request.prompt.size()) * request.n;
  if (!reservation.held()) {
    absl::StatusOr<Reservation> reserved =
        Reserve({.tenant = request.tenant,
                 .prompt_tokens = prompt_tokens,
                 .bytes = static_cast<int64_t>(request.prompt.size() * sizeof(request.prompt[0])),
                 .deadline_us = request.deadline_us});
    if (!reserved.ok()) return reserved.status();
    reservation = *std::move(reserved);
  }
  reservation.SetPromptTokens(prompt_tokens);
  if (absl::Status s = impl_->CheckDeadline(request, reservation); !s.ok()) return s;
  reservation.SetSubmitted(request.priority);
  return impl_->inbox.Submit(std::move(request), std::move(sink), std::move(reservation));
}

absl::StatusOr<RequestId> Scheduler::Submit(Request request, EventSink sink) {
  return Submit(std::move(request), std::move(sink), Reservation());
}

void Scheduler::Cancel(RequestId id, CancelCause cause) {
  impl_->inbox.Send(CancelMessage{.id = id, .cause = cause, .sent_us = impl_->now_us()});
}

void Scheduler::StopChoice(RequestId id, int choice, FinishReason reason) {
  impl_->inbox.Send(StopChoiceMessage{.id = id, .choice = choice, .reason = reason});
}

void Scheduler::Pause(RequestId id) { impl_->inbox.Send(PauseMessage{.id = id, .paused = true}); }

void Scheduler::Resume(RequestId id) { impl_->inbox.Send(PauseMessage{.id = id, .paused = false}); }

void Scheduler::Describe(RequestId id, std::function<void(std::optional<RequestView>)> answer) {
  if (!impl_->inbox.Send(DescribeMessage{.id = id, .answer = answer})) answer(std::nullopt);
}

void Scheduler::FlushPrefixCache(std::function<void(int64_t freed)> answer) {
  if (!impl_->inbox.Send(FlushMessage{.answer = answer})) answer(0);
}

void Scheduler::BeginDrain() { impl_->inbox.BeginDrain(); }

void Scheduler::Stop() { impl_->inbox.Stop(); }

void Scheduler::Run() {
  while (true) {
    impl_->RunOnce();
    if (impl_->stopped) return;
    if (!impl_->roster.can_run()) impl_->inbox.Wait(impl_->IdleUs());
  }
}

bool Scheduler::RunOnce() { return impl_->RunOnce(); }

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = impl_->published.Read();
  const QueueCounts queue = impl_->admission->counts();
  stats.waiting = impl_->inbox.waiting_sequences();
  stats.queued_requests = queue.requests;
  stats.queued_prompt_tokens = queue.prompt_tokens;
  stats.queued_bytes = queue.bytes;
  stats.draining = impl_->inbox.draining();
  stats.engine_down = impl_->inbox.engine_down();
  return stats;
}

int64_t Scheduler::now_us() const { return impl_->now_us(); }

int Scheduler::max_sequence_tokens() const { return MaxSequenceTokens(impl_->limits); }

std::vector<StepRecord> Scheduler::RecentSteps() const { return impl_->log.Snapshot(); }

}  // namespace tandem::scheduler
