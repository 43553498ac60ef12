#include "scheduler/roster.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "scheduler/end_status.h"

namespace tandem::scheduler {
namespace {

bool WantsPenalty(const engine::SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.frequency_penalty != 0.0f ||
         params.presence_penalty != 0.0f;
}

// The times of a request that ends now.
void FillTimes(RequestState& state, int64_t now_us) {
  RequestStats& stats = state.stats;
  const int64_t arrival_us = state.request.arrival_us;
  const bool has_token = stats.completion_tokens > 0;
  stats.total_us = now_us - arrival_us;
  stats.queue_us = (state.started ? state.started_us : now_us) - arrival_us;
  if (state.started) {
    stats.prefill_us = (has_token ? state.first_token_us : now_us) - state.started_us;
  }
  if (has_token) {
    stats.ttft_us = state.first_token_us - arrival_us;
    stats.decode_us = now_us - state.first_token_us;
  }
}

int64_t PromptLeft(const Sequence& sequence) {
  return std::max(0, sequence.request->prompt_tokens() - sequence.kv_tokens);
}

}  // namespace

Roster::Roster(const SchedulerConfig& config, const ModelLimits& limits,
               std::atomic<int64_t>& waiting_sequences)
    : config_(config),
      limits_(limits),
      max_known_(MaxSequenceTokens(limits)),
      waiting_sequences_(waiting_sequences),
      pools_{kvcache::BlockPool(limits.num_blocks[0]), kvcache::BlockPool(limits.num_blocks[1])},
      prefix_reuse_(config, limits, pools_),
      line_(config.tenant_turn_us) {}

RequestState* Roster::Find(RequestId id) {
  const auto it = requests_.find(id);
  return it == requests_.end() ? nullptr : it->second.get();
}

void Roster::Arrive(SubmitMessage message) {
  auto owned = std::make_unique<RequestState>();
  RequestState& state = *owned;
  state.id = message.id;
  state.request = std::move(message.request);
  state.sink = std::move(message.sink);
  state.reservation = std::move(message.reservation);
  state.tenant = line_.Open(state.request.tenant);
  const StopParams& stop = state.request.stop;
  state.stop_ids = stop.stop_ids;
  state.stop_ids.insert(state.stop_ids.end(), stop.eos_ids.begin(), stop.eos_ids.end());
  state.needs_counts = WantsPenalty(state.request.sampling);
  state.root_key = prefix_reuse_.RootKeyOf(state.request);
  state.open_choices = state.request.n;
  state.stats.prompt_tokens = state.prompt_tokens();
  state.choices.resize(state.request.n);
  for (int i = 0; i < state.request.n; ++i) {
    Sequence& sequence = state.choices[i];
    sequence.request = &state;
    sequence.choice = i;
    sequence.rank = RankOf(config_, state.request, state.id, i);
    line_.Join(sequence);
  }
  state.due_us = kNever;
  SetDue(state);
  if (state.request.reject_if_queued) impatient_.push_back(state.id);
  requests_.emplace(state.id, std::move(owned));
}

bool Roster::Cancel(RequestId id, CancelCause cause, int64_t now_us) {
  RequestState* state = Find(id);
  if (state == nullptr) return false;
  absl::Status status = CancelStatus(cause, state->stats.completion_tokens);
  if (status.ok()) {
    FinishOpenChoices(*state, FinishReason::kAborted, now_us);
  } else {
    FinishRequest(*state, std::move(status), now_us);
  }
  return true;
}

void Roster::StopChoice(RequestId id, int choice, FinishReason reason, int64_t now_us) {
  RequestState* state = Find(id);
  if (state == nullptr || choice < 0 || choice >= state->request.n) return;
  Sequence& sequence = state->choices[choice];
  if (sequence.phase == SeatPhase::kEnded) return;
  FinishChoice(sequence, reason, -1, now_us);
}

void Roster::Pause(RequestId id, int64_t now_us) {
  RequestState* state = Find(id);
  if (state == nullptr || state->paused) return;
  for (Sequence& sequence : state->choices) {
    if (sequence.phase == SeatPhase::kWaiting) line_.Leave(sequence);
  }
  state->paused = true;
  state->paused_since_us = now_us;
  ++num_paused_;
}

void Roster::Resume(RequestId id, int64_t now_us) {
  RequestState* state = Find(id);
  if (state == nullptr || !state->paused) return;
  EndPause(*state, now_us);
  for (Sequence& sequence : state->choices) {
    if (sequence.phase == SeatPhase::kWaiting) line_.Join(sequence);
  }
}

void Roster::EndPause(RequestState& state, int64_t now_us) {
  state.paused = false;
  state.stats.paused_us += now_us - state.paused_since_us;
  --num_paused_;
}

std::optional<RequestView> Roster::Describe(RequestId id, const ServiceRate& rate,
                                            int64_t now_us) const {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return std::nullopt;
  const RequestState& state = *it->second;
  RequestView view;
  view.prompt_tokens = state.prompt_tokens();
  view.completion_tokens = state.stats.completion_tokens;
  view.age_us = now_us - state.request.arrival_us;
  if (state.paused) {
    view.state = RequestView::State::kPaused;
    return view;
  }
  const bool has_token = view.completion_tokens > 0;
  const auto ours = [&](const Sequence* sequence) { return sequence->request == &state; };
  const auto seat = std::find_if(seated_.begin(), seated_.end(), ours);
  int64_t tokens = 0;  // prompt tokens that run until its first token
  if (seat != seated_.end()) {
    view.state = has_token ? RequestView::State::kDecode : RequestView::State::kPrefill;
    tokens = PromptLeft(**seat);
  } else {
    view.state = state.started ? RequestView::State::kPreempted : RequestView::State::kQueued;
    for (const Sequence* sequence : seated_) {
      if (!sequence->request->paused) tokens += PromptLeft(*sequence);
    }
    std::set<const RequestState*> ahead;
    for (const Sequence* sequence : line_.First(waiting_sequences_)) {
      tokens += PromptLeft(*sequence);
      if (ours(sequence)) break;
      ahead.insert(sequence->request);
    }
    view.queue_position = static_cast<int>(ahead.size());
  }
  if (!has_token) view.eta_first_token_s = SecondsToFirstToken(rate, tokens);
  return view;
}

void Roster::SetDue(RequestState& state) {
  const Request& request = state.request;
  int64_t due_us = request.deadline_us;
  if (!state.started) due_us = std::min(due_us, request.queue_timeout_us);
  if (request.stop.time_limit_us > 0 && request.stop.time_limit_us < kNever - request.arrival_us) {
    due_us = std::min(due_us, request.arrival_us + request.stop.time_limit_us);
  }
  if (state.due_us != kNever) due_.erase({state.due_us, state.id});
  if (due_us != kNever) due_.insert({due_us, state.id});
  state.due_us = due_us;
}

void Roster::ExpireDue(int64_t now_us) {
  while (next_due_us() <= now_us) {
    RequestState& state = *Find(due_.begin()->second);  // ending a request removes it
    const Request& request = state.request;
    const int64_t queued_us = (state.started ? state.started_us : now_us) - request.arrival_us;
    if (now_us >= request.deadline_us) {
      FinishRequest(state, DeadlineStatus(queued_us), now_us);
    } else if (!state.started && now_us >= request.queue_timeout_us) {
      FinishRequest(state, QueueTimeoutStatus(queued_us), now_us);
    } else {
      FinishOpenChoices(state, FinishReason::kTimeLimit, now_us);
    }
  }
}

void Roster::CancelAll(CancelCause cause, int64_t now_us) {
  while (!requests_.empty()) Cancel(requests_.begin()->first, cause, now_us);
}

void Roster::FailAll(absl::Status (*make_status)(), int64_t now_us) {
  while (!requests_.empty()) FinishRequest(*requests_.begin()->second, make_status(), now_us);
}

int64_t Roster::FlushPrefixCache() {
  int64_t freed = 0;
  for (kvcache::BlockPool& pool : pools_) freed += pool.FlushCached();
  return freed;
}

void Roster::FillStats(SchedulerStats& stats) const {
  stats = totals_;
  stats.running = static_cast<int64_t>(seated_.size());
  stats.paused = num_paused_;
  stats.preempted_now = num_preempted_;
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    stats.blocks_total[g] = pools_[g].num_blocks();
    stats.blocks_used[g] = pools_[g].num_used();
    stats.blocks_cached[g] = pools_[g].num_cached();
    stats.prefix_evicted_blocks_total += pools_[g].num_evicted();
  }
}

void Roster::Queue(Sequence& sequence) {
  sequence.phase = SeatPhase::kWaiting;
  waiting_sequences_ += 1;
  if (sequence.has_run) ++num_preempted_;
  if (!sequence.request->paused) line_.Join(sequence);
}

void Roster::Unqueue(Sequence& sequence) {
  waiting_sequences_ -= 1;
  if (sequence.has_run) --num_preempted_;
  if (!sequence.request->paused) line_.Leave(sequence);
}

void Roster::Seat(Sequence& sequence) {
  Unqueue(sequence);
  seated_.insert(&sequence);
  ++sequence.request->tenant->seats;
  sequence.phase = SeatPhase::kSeated;
}

void Roster::Unseat(Sequence& sequence) {
  seated_.erase(&sequence);
  --sequence.request->tenant->seats;
  for (int g = 0; g < engine::kNumKvGroups; ++g) kvcache::Free(sequence.tables[g], pools_[g]);
}

void Roster::Vacate(Sequence& sequence) {
  if (sequence.phase == SeatPhase::kWaiting) {
    Unqueue(sequence);
  } else {
    Unseat(sequence);
  }
  sequence.phase = SeatPhase::kEnded;
  DiscardDraft(sequence);
}

void Roster::Preempt(Sequence& sequence, bool counted, int64_t now_us) {
  if (sequence.phase != SeatPhase::kSeated) return;  // its request failed just now
  RequestState& state = *sequence.request;
  ++state.stats.preemptions;
  ++totals_.preemptions_total;
  if (counted && ++sequence.preemptions > config_.max_preemptions) {
    FinishRequest(state, KvExhaustedStatus(sequence.preemptions), now_us);
    return;
  }
  Unseat(sequence);
  sequence.kv_tokens = 0;
  sequence.published_blocks = 0;
  DiscardDraft(sequence);
  Queue(sequence);
}

void Roster::Start(RequestState& state, int64_t now_us) {
  state.reservation.Release();
  state.started = true;
  state.started_us = now_us;
  SetDue(state);
  state.stats.queue_us = now_us - state.request.arrival_us;
  if (config_.prefix_cache && state.request.prefix_cache.read) {
    totals_.prefix_query_tokens_total += state.prompt_tokens();
    totals_.prefix_hit_tokens_total += state.stats.cached_prompt_tokens;
  }
  if (state.needs_counts) {
    engine::TokenCounts counts;
    for (const int32_t id : state.request.prompt) ++counts.prompt[id];
    for (Sequence& sequence : state.choices) sequence.counts = counts;
  }
  TokenEvent event;
  event.kind = TokenEvent::Kind::kStarted;
  event.stats = state.stats;
  state.sink(std::move(event));
}

void Roster::FinishChoice(Sequence& sequence, FinishReason reason, int32_t stop_id,
                          int64_t now_us) {
  RequestState& state = *sequence.request;
  Vacate(sequence);
  ++totals_.choices_finished_total[static_cast<int>(reason)];
  TokenEvent event;
  event.kind = TokenEvent::Kind::kChoiceFinished;
  event.choice = sequence.choice;
  event.reason = reason;
  event.stop_id = stop_id;
  event.drafts = sequence.drafts;
  state.sink(std::move(event));
  if (--state.open_choices == 0) FinishRequest(state, absl::OkStatus(), now_us);
}

void Roster::FinishOpenChoices(RequestState& state, FinishReason reason, int64_t now_us) {
  for (Sequence& sequence : state.choices) {
    if (sequence.phase != SeatPhase::kEnded) FinishChoice(sequence, reason, -1, now_us);
  }
}

void Roster::FinishRequest(RequestState& state, absl::Status status, int64_t now_us) {
  for (Sequence& sequence : state.choices) {
    if (sequence.phase != SeatPhase::kEnded) Vacate(sequence);
  }
  if (state.paused) EndPause(state, now_us);
  state.reservation.Release();
  if (state.due_us != kNever) due_.erase({state.due_us, state.id});
  line_.Close(state.tenant);
  state.tenant = nullptr;
  FillTimes(state, now_us);
  ++totals_.requests_finished_total[static_cast<int>(status.code())];
  TokenEvent event;
  event.kind = TokenEvent::Kind::kFinished;
  event.status = std::move(status);
  event.stats = state.stats;
  const auto it = requests_.find(state.id);
  ended_.push_back(std::move(it->second));
  requests_.erase(it);
  state.sink(std::move(event));
}

}  // namespace tandem::scheduler
