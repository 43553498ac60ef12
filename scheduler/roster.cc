#include "scheduler/roster.h"

#include <algorithm>
#include <cassert>
#include <iterator>
#include <optional>
#include <span>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "scheduler/end_status.h"
#include "scheduler/stop_rules.h"

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

bool MayDraft(const Request& request) {
  return request.speculation.mode != Speculation::Mode::kOff &&
         request.speculation.max_draft_tokens > 0;
}

// Without a seat: it was preempted.
bool HasRun(const Sequence& sequence) { return sequence.computed_tokens > 0; }

}  // namespace

Roster::Roster(const SchedulerConfig& config, const ModelLimits& limits,
               std::atomic<int64_t>& waiting_sequences)
    : config_(config),
      limits_(limits),
      max_known_(MaxSequenceTokens(limits)),
      waiting_sequences_(waiting_sequences),
      pools_{kvcache::BlockPool(limits.num_blocks[0]), kvcache::BlockPool(limits.num_blocks[1])},
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

int Roster::DraftRoom(const Sequence& sequence, int more_tokens) const {
  const Request& request = sequence.request->request;
  if (!MayDraft(request)) return 0;
  // A round of k guesses can give k + 1 tokens (mtp.md 2.2 step 1).
  const int tokens_left =
      std::min(request.stop.max_tokens - static_cast<int>(sequence.output.size()),
               max_known_ - KnownTokens(sequence)) -
      more_tokens;
  return std::max(0, std::min({config_.max_draft_tokens, request.speculation.max_draft_tokens,
                               tokens_left - 1}));
}

SeqState Roster::StateOf(const Sequence& sequence) const {
  const RequestState& request = *sequence.request;
  SeqState state;
  state.rank = sequence.rank;
  state.paused = request.paused;
  state.prompt_tokens = request.prompt_tokens();
  state.known_tokens = KnownTokens(sequence);
  state.kv_tokens = sequence.kv_tokens;
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    state.blocks[g].table = static_cast<int>(sequence.tables[g].blocks.size());
    state.blocks[g].held = sequence.tables[g].num_held();
  }
  state.drafts = static_cast<int>(sequence.draft.size());
  const int output_tokens = static_cast<int>(sequence.output.size());
  if (output_tokens + 1 < request.request.stop.max_tokens && state.known_tokens + 1 < max_known_) {
    state.wish = {.mode = request.request.speculation.mode,
                  .max_tokens = DraftRoom(sequence, /*more_tokens=*/1),
                  .history = sequence.draft_history};
  }
  return state;
}

Lineup Roster::MakeLineup(const CostModel& cost, int64_t step) const {
  Lineup lineup;
  PlanInput& input = lineup.input;
  input.config = config_;
  input.limits = limits_;
  input.cost = cost;
  input.draft_prior = draft_prior_;
  input.step = step;
  for (int g = 0; g < engine::kNumKvGroups; ++g) input.free_blocks[g] = pools_[g].num_free();
  absl::flat_hash_map<const TenantLine*, int> tenants;
  const auto state_of = [&](const Sequence& sequence) {
    SeqState state = StateOf(sequence);
    const auto next = static_cast<int>(tenants.size());
    state.tenant = tenants.try_emplace(sequence.request->tenant, next).first->second;
    return state;
  };
  int seats = config_.max_slots + kMaxSwaps;  // that could be given away
  for (Sequence* sequence : seated_) {
    input.seated.push_back(state_of(*sequence));
    lineup.sequences.push_back(sequence);
    if (!sequence->request->paused) --seats;
  }
  for (Sequence* sequence : line_.First(seats)) {
    input.waiting.push_back(state_of(*sequence));
    lineup.sequences.push_back(sequence);
  }
  return lineup;
}

std::vector<SeatRows> Roster::Apply(const Lineup& lineup, const StepPlan& plan, int64_t now_us) {
  for (const int seq : plan.make_room) {
    Preempt(*lineup.sequences[seq], /*counted=*/false, now_us);
  }
  for (const int seq : plan.preempt) Preempt(*lineup.sequences[seq], /*counted=*/true, now_us);
  for (const int seq : plan.admit) {
    Sequence& sequence = *lineup.sequences[seq];
    if (sequence.phase == SeatPhase::kWaiting) Seat(sequence);
  }
  std::vector<SeatRows> seats;
  for (const std::vector<SeqRows>* rows_of : {&plan.decode, &plan.prefill}) {
    for (const SeqRows& rows : *rows_of) {
      Sequence& sequence = *lineup.sequences[rows.seq];
      if (sequence.phase != SeatPhase::kSeated) continue;
      for (int g = 0; g < engine::kNumKvGroups; ++g) {
        if (limits_.num_blocks[g] == 0) continue;
        [[maybe_unused]] const bool grown = kvcache::Grow(
            sequence.tables[g], pools_[g], limits_.block_tokens, sequence.kv_tokens + rows.rows);
        assert(grown);  // the plan counted the free blocks
      }
      if (!sequence.request->started) Start(*sequence.request, now_us);
      if (sequence.draft_reason == DraftReason::kPays && rows.reason == DraftReason::kAcceptance) {
        ++totals_.draft_auto_off_total;
      }
      // A trial in between is no decision: who was switched off stays known as that.
      if (rows.reason != DraftReason::kTrial) sequence.draft_reason = rows.reason;
      seats.push_back(
          {.sequence = &sequence, .rows = rows.rows, .drafts = rows.drafts, .guess = rows.guess});
    }
  }
  for (const RequestId id : std::exchange(impatient_, {})) {
    RequestState* state = Find(id);
    if (state != nullptr && !state->started) {
      FinishRequest(*state, NotStartedAtOnceStatus(), now_us);
    }
  }
  return seats;
}

int Roster::Commit(const std::vector<SeatRows>& seats, const engine::StepBatch& batch,
                   engine::StepResult result, int64_t step, int64_t now_us) {
  const std::vector<SegmentResult> results = ResultsBySegment(batch, result);
  int accepted = 0;
  for (size_t i = 0; i < seats.size(); ++i) {
    if (seats[i].sequence->phase == SeatPhase::kEnded) continue;  // its request failed just now
    accepted += CommitSeat(seats[i], results[i], step, now_us);
  }
  return accepted;
}

int Roster::CommitSeat(const SeatRows& seat, SegmentResult result, int64_t step, int64_t now_us) {
  Sequence& sequence = *seat.sequence;
  RequestState& state = *sequence.request;
  const auto bad_score =
      std::find_if(result.scores.begin(), result.scores.end(),
                   [](const engine::SampledToken& token) { return !token.finite; });
  if (bad_score != result.scores.end()) {
    const auto index = static_cast<int>(bad_score - result.scores.begin());
    FinishRequest(state, NumericFailureStatus(step, state.next_scored - 1 + index), now_us);
    return 0;
  }

  // What goes out, and what that makes of the guesses: one that held but lies behind a stop does
  // not exist. A row that is not finite ends the run like plain decoding would have ended there.
  const bool broken = !result.drawn.empty() && !result.drawn.back().finite;
  const std::span<engine::SampledToken> run =
      result.drawn.first(result.drawn.size() - (broken ? 1 : 0));
  const int known_before = KnownTokens(sequence);
  const SentRun sent = ScanRun(state.request.stop, run, static_cast<int>(sequence.output.size()),
                               known_before, max_known_);
  const int held = std::max(0, static_cast<int>(result.drawn.size()) - 1);
  DraftCounts round;
  // After a preemption the newest token's row runs at the end of a chunk: a round as well.
  round.rounds = !result.drawn.empty() && !sequence.output.empty() ? 1 : 0;
  round.drafted = sent.reason.has_value() ? std::min(seat.drafts, sent.tokens) : seat.drafts;
  round.accepted = std::min(held, sent.tokens);

  CommitRows(sequence, seat.rows - seat.drafts + static_cast<int>(round.accepted));
  for (const engine::SampledToken& token : run.first(sent.tokens)) {
    sequence.output.push_back(token.id);
    if (state.needs_counts) ++sequence.counts.output[token.id];
  }
  CommitDraft(seat, round, result.draft, /*goes_on=*/!sent.reason.has_value() && !broken);

  if (!result.scores.empty()) {
    TokenEvent event;
    event.kind = TokenEvent::Kind::kPromptLogprobs;
    event.first_position = state.next_scored;
    event.tokens.assign(std::make_move_iterator(result.scores.begin()),
                        std::make_move_iterator(result.scores.end()));
    state.next_scored += static_cast<int>(event.tokens.size());
    state.sink(std::move(event));
  }
  if (sent.tokens > 0) {
    if (state.stats.completion_tokens == 0) state.first_token_us = now_us;
    state.stats.completion_tokens += sent.tokens;
    totals_.generated_tokens_total += sent.tokens;
    TokenEvent event;
    event.kind = TokenEvent::Kind::kTokens;
    event.choice = sequence.choice;
    event.tokens.assign(std::make_move_iterator(run.begin()),
                        std::make_move_iterator(run.begin() + sent.tokens));
    event.drafted = static_cast<int>(round.drafted);
    event.accepted = static_cast<int>(round.accepted);
    state.sink(std::move(event));
  }
  if (sent.reason.has_value()) {
    const bool by_id =
        *sent.reason == FinishReason::kStopToken || *sent.reason == FinishReason::kStopEos;
    FinishChoice(sequence, *sent.reason, by_id ? sequence.output.back() : -1, now_us);
  } else if (broken) {
    const int position = known_before - 1 + static_cast<int>(run.size());
    FinishRequest(state, NumericFailureStatus(step, position), now_us);
  } else if (sequence.kv_tokens == KnownTokens(sequence)) {  // max_tokens is 0: scored, done
    FinishChoice(sequence, FinishReason::kMaxTokens, -1, now_us);
  }
  return static_cast<int>(round.accepted);
}

void Roster::CommitRows(Sequence& sequence, int rows) {
  const int begin = sequence.kv_tokens;
  const int end = begin + rows;
  const int recomputed = std::max(0, std::min(end, sequence.computed_tokens) - begin);
  const int prompt_end = std::min(end, sequence.request->prompt_tokens());
  totals_.prompt_tokens_total +=
      std::max(0, prompt_end - std::max(begin, sequence.computed_tokens));
  totals_.recomputed_tokens_total += recomputed;
  sequence.request->stats.recomputed_tokens += recomputed;
  sequence.kv_tokens = end;
  sequence.computed_tokens = std::max(sequence.computed_tokens, end);
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    kvcache::Truncate(sequence.tables[g], pools_[g], limits_.block_tokens, end);
  }
  if (limits_.num_blocks[engine::kSliding] > 0) {
    // The next row, at position kv_tokens, sees kv_tokens - window + 1 and later; one more is
    // kept for both conventions of a drafter (mtp.md 3.5).
    kvcache::ReleaseBelow(sequence.tables[engine::kSliding], pools_[engine::kSliding],
                          limits_.block_tokens, std::max(0, end - limits_.window));
  }
}

void Roster::CommitDraft(const SeatRows& seat, DraftCounts round, const engine::Draft* fresh,
                         bool goes_on) {
  Sequence& sequence = *seat.sequence;
  const auto drafted = static_cast<int>(round.drafted);
  const auto accepted = static_cast<int>(round.accepted);
  round.rounds_with_draft = drafted > 0 ? 1 : 0;
  round.discarded = static_cast<int64_t>(sequence.draft.size()) - drafted;
  std::fill_n(round.drafted_at.begin(), drafted, 1);
  std::fill_n(round.accepted_at.begin(), accepted, 1);
  const bool may_draft = config_.max_draft_tokens > 0 && MayDraft(sequence.request->request);
  if (may_draft && round.rounds > 0) {
    Observe(sequence.draft_history, draft_prior_, sequence.draft_missed ? 1 : drafted, accepted);
  }
  sequence.draft.clear();
  sequence.draft_missed = false;
  if (fresh != nullptr) {
    // After a NaN the sequence goes on plainly, though the ids before it would do no harm.
    const auto size = static_cast<int>(fresh->ids.size());
    const int keep =
        fresh->finite && goes_on ? std::min(size, DraftRoom(sequence, /*more_tokens=*/0)) : 0;
    sequence.draft.assign(fresh->ids.begin(), fresh->ids.begin() + keep);
    sequence.draft_missed = size == 0 || !fresh->finite;
    round.failed = fresh->finite ? 0 : 1;
    round.discarded += size - keep;
  }
  Count(sequence, round);
}

void Roster::DiscardDraft(Sequence& sequence) {
  DraftCounts counts;
  counts.discarded = static_cast<int64_t>(sequence.draft.size());
  Count(sequence, counts);
  sequence.draft.clear();
  sequence.draft_missed = false;
}

void Roster::Count(Sequence& sequence, const DraftCounts& counts) {
  Add(sequence.drafts, counts);
  Add(sequence.request->stats.drafts, counts);
  Add(totals_.drafts, counts);
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
  if (HasRun(sequence)) ++num_preempted_;
  if (!sequence.request->paused) line_.Join(sequence);
}

void Roster::Unqueue(Sequence& sequence) {
  waiting_sequences_ -= 1;
  if (HasRun(sequence)) --num_preempted_;
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
  DiscardDraft(sequence);
  Queue(sequence);
}

void Roster::Start(RequestState& state, int64_t now_us) {
  state.reservation.Release();
  state.started = true;
  state.started_us = now_us;
  SetDue(state);
  state.stats.queue_us = now_us - state.request.arrival_us;
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
