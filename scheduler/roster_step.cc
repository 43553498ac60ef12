// Roster's part in a step: who could take part, what a plan and its result change.
#include <algorithm>
#include <iterator>
#include <optional>
#include <span>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "kvcache/block_table.h"
#include "scheduler/end_status.h"
#include "scheduler/roster.h"
#include "scheduler/shared_blocks.h"
#include "scheduler/stop_rules.h"

namespace tandem::scheduler {
namespace {

bool MayDraft(const Request& request) {
  return request.speculation.mode != Speculation::Mode::kOff &&
         request.speculation.max_draft_tokens > 0;
}

}  // namespace

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

Lineup Roster::MakeLineup(const CostModel& cost, int64_t step) {
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
  if (config_.prefix_cache) OfferReuse(lineup);
  return lineup;
}

void Roster::OfferReuse(Lineup& lineup) {
  PlanInput& input = lineup.input;
  const std::span<Sequence* const> seated = std::span(lineup.sequences).first(input.seated.size());
  BlockNumbers numbers;
  for (size_t seq = 0; seq < lineup.sequences.size(); ++seq) {
    SeqState& state = seq < seated.size() ? input.seated[seq] : input.waiting[seq - seated.size()];
    if (state.paused || state.decoding()) continue;
    prefix_reuse_.Offer(*lineup.sequences[seq], seated, numbers, state);
  }
  input.shared = SharedBlocksOf(input, lineup.sequences, pools_);
}

Roster::CopySource Roster::HoldCopySource(const Lineup& lineup, const Reuse& reuse) {
  CopySource source = kNoSource;
  if (reuse.copied_to == 0) return source;
  const int block = (reuse.copied_to - 1) / limits_.block_tokens;
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (limits_.num_blocks[g] == 0) continue;
    source[g] = lineup.sequences[reuse.copy_seq]->tables[g].blocks[block];
    pools_[g].AddReference(source[g]);
  }
  return source;
}

// Into its block that has the last rows it took over.
std::vector<engine::BlockCopy> Roster::CopiesFrom(const CopySource& source,
                                                  const Sequence& sequence) const {
  std::vector<engine::BlockCopy> copies;
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (source[g] < 0) continue;
    const int block = (sequence.kv_tokens - 1) / limits_.block_tokens;
    copies.push_back({.group = static_cast<engine::KvGroup>(g),
                      .from = source[g],
                      .to = sequence.tables[g].blocks[block]});
  }
  return copies;
}

void Roster::ReleaseCopySource(const CopySource& source) {
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (source[g] >= 0) pools_[g].Release(source[g]);
  }
}

// Rows that are taken over count as if they had run, but not as work.
void Roster::TakeReuse(Sequence& sequence, const Reuse& reuse) {
  if (reuse.tokens > 0) prefix_reuse_.Adopt(sequence, reuse.tokens);
  sequence.kv_tokens = std::max({sequence.kv_tokens, reuse.tokens, reuse.copied_to});
  RequestState& state = *sequence.request;
  const int cached = std::min(sequence.kv_tokens, state.prompt_tokens()) -
                     std::min(sequence.computed_tokens, state.prompt_tokens());
  sequence.computed_tokens = std::max(sequence.computed_tokens, sequence.kv_tokens);
  if (sequence.choice != 0 || cached <= 0) return;
  state.stats.cached_prompt_tokens += cached;
  if (state.started) totals_.prefix_hit_tokens_total += cached;
}

bool Roster::GrowTables(Sequence& sequence, int tokens) {
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (limits_.num_blocks[g] == 0) continue;
    if (!kvcache::Grow(sequence.tables[g], pools_[g], limits_.block_tokens, tokens)) return false;
  }
  return true;
}

std::vector<SeatRows> Roster::Apply(const Lineup& lineup, const StepPlan& plan, int64_t now_us) {
  for (const int seq : plan.admit) Seat(*lineup.sequences[seq]);
  // Blocks that are reused get their holders before any block is given away; what is copied, before
  // its owner takes something else in its place.
  std::vector<CopySource> sources(lineup.sequences.size(), kNoSource);
  for (const SeqReuse& entry : plan.reuse) {
    sources[entry.seq] = HoldCopySource(lineup, entry.reuse);
  }
  for (const SeqReuse& entry : plan.reuse) TakeReuse(*lineup.sequences[entry.seq], entry.reuse);
  for (const int seq : plan.make_room) {
    Preempt(*lineup.sequences[seq], /*counted=*/false, now_us);
  }
  for (const int seq : plan.preempt) Preempt(*lineup.sequences[seq], /*counted=*/true, now_us);
  std::vector<SeatRows> seats;
  for (const std::vector<SeqRows>* rows_of : {&plan.decode, &plan.prefill}) {
    for (const SeqRows& rows : *rows_of) {
      Sequence& sequence = *lineup.sequences[rows.seq];
      if (sequence.phase != SeatPhase::kSeated) continue;
      // The plan counted the free blocks. Should it have been wrong, this request pays for it.
      if (!GrowTables(sequence, sequence.kv_tokens + rows.rows)) {
        FinishRequest(*sequence.request, KvExhaustedStatus(sequence.preemptions), now_us);
        continue;
      }
      sequence.has_run = true;
      if (!sequence.request->started) Start(*sequence.request, now_us);
      if (sequence.draft_reason == DraftReason::kPays && rows.reason == DraftReason::kAcceptance) {
        ++totals_.draft_auto_off_total;
      }
      // A trial in between is no decision: who was switched off stays known as that.
      if (rows.reason != DraftReason::kTrial) sequence.draft_reason = rows.reason;
      seats.push_back({.sequence = &sequence,
                       .rows = rows.rows,
                       .drafts = rows.drafts,
                       .guess = rows.guess,
                       .copies = CopiesFrom(sources[rows.seq], sequence)});
    }
  }
  for (const CopySource& source : sources) ReleaseCopySource(source);
  // Choices of a request that failed behind them: their blocks are somebody else's by now.
  std::erase_if(seats,
                [](const SeatRows& seat) { return seat.sequence->phase != SeatPhase::kSeated; });
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
  if (result.broken_rows) {
    FinishRequest(state, BrokenRowsStatus(step, sequence.kv_tokens, seat.rows), now_us);
    return 0;
  }
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

  for (const engine::SampledToken& token : run.first(sent.tokens)) {
    sequence.output.push_back(token.id);
    if (state.needs_counts) ++sequence.counts.output[token.id];
  }
  CommitRows(sequence, seat.rows - seat.drafts + static_cast<int>(round.accepted),
             /*publish=*/!broken);
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

void Roster::CommitRows(Sequence& sequence, int rows, bool publish) {
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
  if (publish) prefix_reuse_.Publish(sequence);
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

}  // namespace tandem::scheduler
