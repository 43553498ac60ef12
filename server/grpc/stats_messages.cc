#include "server/grpc/stats_messages.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/draft_report.h"
#include "server/grpc/request_errors.h"
#include "server/grpc/request_id.h"

namespace tandem::server {
namespace {

constexpr int64_t kDefaultIntervalMs = 1000;
constexpr int64_t kMinIntervalMs = 100;
constexpr int64_t kMaxIntervalMs = 60'000;
constexpr int kMaxAbortIds = 1024;

uint32_t Count(int64_t value) { return static_cast<uint32_t>(value); }

void AddGroup(engine::KvGroup group, int layers, const scheduler::SchedulerStats& stats,
              const ServedModel& model, v1::EngineStats& out) {
  const int64_t total = stats.blocks_total[group];
  if (total == 0) return;  // the model has no such layers
  v1::KvGroupStats& message = *out.add_kv_groups();
  message.set_name(group == engine::kFull ? "full" : "sliding");
  message.set_layers(Count(layers));
  message.set_block_size(Count(model.kv_block_tokens));
  message.set_total(static_cast<uint64_t>(total));
  message.set_used(static_cast<uint64_t>(stats.blocks_used[group]));
  message.set_cached(static_cast<uint64_t>(stats.blocks_cached[group]));
  message.set_format(model.kv_format);
  out.set_kv_blocks_total(out.kv_blocks_total() + message.total());
  out.set_kv_blocks_used(out.kv_blocks_used() + message.used());
  out.set_kv_blocks_cached(out.kv_blocks_cached() + message.cached());
}

void FillSpeculation(const scheduler::SchedulerStats& stats, const ServedModel& model,
                     v1::EngineStats& out) {
  if (!model.drafter.has_value()) return;
  const scheduler::DraftCounts& drafts = stats.drafts;
  out.set_spec_acceptance_rate(scheduler::AcceptanceRate(drafts));
  out.set_spec_mean_accepted_length(scheduler::TokensPerDraft(drafts));
  out.set_spec_current_depth(stats.draft_tokens);
  for (int i = 0; i < model.drafter->max_draft_tokens; ++i) {
    out.add_spec_drafted_per_position(static_cast<uint64_t>(drafts.drafted_at[i]));
    out.add_spec_accepted_per_position(static_cast<uint64_t>(drafts.accepted_at[i]));
  }
}

v1::RequestStatus::State StateOf(const RequestStatusView& view) {
  if (view.tokenizing) return v1::RequestStatus::TOKENIZING;
  switch (view.request.state) {
    case scheduler::RequestView::State::kQueued:
      return v1::RequestStatus::QUEUED;
    case scheduler::RequestView::State::kPrefill:
      return v1::RequestStatus::PREFILL;
    case scheduler::RequestView::State::kDecode:
      return v1::RequestStatus::DECODE;
    case scheduler::RequestView::State::kPaused:
      return v1::RequestStatus::PAUSED;
    case scheduler::RequestView::State::kPreempted:
      return v1::RequestStatus::PREEMPTED;
  }
  return v1::RequestStatus::STATE_UNSPECIFIED;
}

//   age_us   since the call came
v1::RequestStatus StatusOf(const std::string& id, const RequestStatusView& view, int64_t age_us) {
  v1::RequestStatus status;
  status.set_request_id(id);
  status.set_state(StateOf(view));
  status.set_age_s(static_cast<double>(age_us) * 1e-6);
  if (view.tokenizing) return status;
  status.set_queue_position(Count(view.request.queue_position));
  status.set_eta_first_token_s(view.request.eta_first_token_s);
  status.set_prompt_tokens(Count(view.request.prompt_tokens));
  status.set_completion_tokens(Count(view.request.completion_tokens));
  return status;
}

}  // namespace

v1::EngineStats ToEngineStats(const scheduler::SchedulerStats& stats, const ServedModel& model,
                              const TokenRates& rates, bool draining, int64_t now_us) {
  v1::EngineStats out;
  out.mutable_time()->set_seconds(now_us / 1'000'000);
  out.mutable_time()->set_nanos(static_cast<int32_t>(now_us % 1'000'000 * 1000));
  out.set_running(Count(stats.running));
  out.set_waiting(Count(stats.waiting));
  out.set_paused(Count(stats.paused));
  out.set_preempted_now(Count(stats.preempted_now));
  AddGroup(engine::kSliding, model.layers - model.full_attention_layers, stats, model, out);
  AddGroup(engine::kFull, model.full_attention_layers, stats, model, out);
  out.set_kv_usage(scheduler::KvUsage(stats));
  if (stats.prefix_query_tokens_total > 0) {
    out.set_prefix_hit_rate(static_cast<double>(stats.prefix_hit_tokens_total) /
                            static_cast<double>(stats.prefix_query_tokens_total));
  }
  out.set_prompt_tokens_per_s(rates.prompt_per_s);
  out.set_generation_tokens_per_s(rates.generated_per_s);
  out.set_queued_prompt_tokens(static_cast<uint64_t>(stats.queued_prompt_tokens));
  FillSpeculation(stats, model, out);
  out.set_step_time_ms(static_cast<double>(stats.last_step_us) * 1e-3);
  out.set_steps(static_cast<uint64_t>(stats.steps_total));
  out.set_preemptions_total(static_cast<uint64_t>(stats.preemptions_total));
  out.set_draining(draining);
  return out;
}

absl::StatusOr<v1::EngineStats> EngineStatsNow(ServiceCore& core) {
  const absl::StatusOr<const LoadedModel*> model = core.Model();
  if (!model.ok()) return model.status();
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return ToEngineStats((*model)->backend.scheduler->stats(), (*model)->model, core.rates(),
                       core.health().phase() == Phase::kDraining,
                       std::chrono::duration_cast<std::chrono::microseconds>(now).count());
}

absl::StatusOr<int64_t> WatchIntervalMs(const v1::WatchStatsRequest& request) {
  const int64_t interval_ms = request.interval_ms();
  if (interval_ms == 0) return kDefaultIntervalMs;
  if (interval_ms >= kMinIntervalMs && interval_ms <= kMaxIntervalMs) return interval_ms;
  return BadParameter("interval_ms",
                      absl::StrCat("is ", interval_ms, "; it must be ", kMinIntervalMs, " to ",
                                   kMaxIntervalMs, ", or 0 for ", kDefaultIntervalMs));
}

absl::StatusOr<v1::AbortResponse> AbortCalls(const v1::AbortRequest& request, ServiceCore& core) {
  if (!request.tenant().empty()) return AdministratorsOnly("tenant");
  const int count = request.request_ids_size();
  if (count == 0 || count > kMaxAbortIds) {
    return BadParameter("request_ids", absl::StrCat("has ", count, " entries; name 1 to ",
                                                    kMaxAbortIds, " requests"));
  }
  for (int i = 0; i < count; ++i) {
    const absl::Status good =
        CheckRequestId(absl::StrCat("request_ids[", i, "]"), request.request_ids(i));
    if (!good.ok()) return good;
  }
  v1::AbortResponse response;
  for (const std::string& id : request.request_ids()) {
    const std::optional<ActiveCalls::View> call = core.calls().Abort(id);
    if (!call.has_value()) {
      response.add_unknown_ids(id);
      continue;
    }
    response.set_aborted(response.aborted() + 1);
    if (call->handle.has_value()) {
      // A call with a handle runs on the model, so there is one.
      (*core.Model())->backend.generator->Cancel(*call->handle, scheduler::CancelCause::kAborted);
    }
  }
  return response;
}

void DescribeCall(const v1::GetRequestStatusRequest& request, ServiceCore& core,
                  std::function<void(absl::StatusOr<v1::RequestStatus>)> answer) {
  const std::string& id = request.request_id();
  absl::Status good = CheckRequestId("request_id", id);
  if (good.ok() && id.empty()) good = BadParameter("request_id", "is empty; name a request");
  if (!good.ok()) return answer(std::move(good));
  const std::optional<ActiveCalls::View> call = core.calls().Find(id);
  if (!call.has_value()) return answer(RequestNotFound(id));
  if (!call->handle.has_value())
    return answer(StatusOf(id, {.tokenizing = true, .request = {}}, call->age_us));
  const auto on_view = [&core, id, age_us = call->age_us,
                        answer = std::move(answer)](std::optional<RequestStatusView> view) {
    // This may be the scheduler's thread, which has better things to do than to send messages.
    core.timers().Start(CallTimers::Clock::now(), [id, age_us, answer, view] {
      answer(view.has_value() ? absl::StatusOr<v1::RequestStatus>(StatusOf(id, *view, age_us))
                              : RequestNotFound(id));
    });
  };
  (*core.Model())->backend.generator->Describe(*call->handle, on_view);
}

}  // namespace tandem::server
