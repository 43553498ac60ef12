#include "scheduler/plan_step.h"

#include <algorithm>
#include <climits>
#include <numeric>
#include <utility>

#include "kvcache/block_table.h"

namespace tandem::scheduler {
namespace {

using Blocks = std::array<int64_t, engine::kNumKvGroups>;

// One sequence while the plan grows.
struct Candidate {
  const SeqState* state = nullptr;
  int seq = 0;
  bool seated = false;
  bool preempted = false;
  bool must_seat = false;  // others made room for it
  int turn = 0;
  int want = 0;  // rows, guesses included, before blocks are looked for
  int rows = 0;  // rows planned
};

bool HasGroup(const PlanInput& in, int group) { return in.limits.num_blocks[group] > 0; }

// Blocks a sequence has to hold, at most, to run all its known tokens and one more.
int64_t BlocksToFinish(const PlanInput& in, const SeqState& state, int group) {
  const int all = kvcache::BlocksFor(int64_t{state.known_tokens} + 1, in.limits.block_tokens);
  return group == engine::kSliding ? std::min(all, SlidingBlocksHeld(in.limits)) : all;
}

// Seats and blocks, while it is decided who gets a seat.
struct Room {
  int64_t seats = 0;              // taken
  Blocks free = {};               // beside what all the seated need to run what they know
  std::vector<int> tenant_seats;  // by tenant
  std::vector<bool> out;          // by seated sequence: it makes room
};

Room RoomOf(const PlanInput& in) {
  Room room;
  room.seats = static_cast<int64_t>(in.seated.size());
  room.tenant_seats.resize(in.seated.size() + in.waiting.size());
  room.out.resize(in.seated.size());
  for (int g = 0; g < engine::kNumKvGroups; ++g) room.free[g] = in.free_blocks[g];
  for (const SeqState& state : in.seated) {
    ++room.tenant_seats[state.tenant];
    for (int g = 0; g < engine::kNumKvGroups; ++g) {
      room.free[g] -= std::max<int64_t>(0, BlocksToFinish(in, state, g) - state.blocks[g].held);
    }
  }
  return room;
}

bool Fits(const PlanInput& in, const Room& room, const SeqState& state) {
  if (room.seats >= in.config.max_slots) return false;
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    // One block to grow for everybody seated before, or they would be at each other's throat soon.
    if (HasGroup(in, g) && BlocksToFinish(in, state, g) + room.seats > room.free[g]) return false;
  }
  return true;
}

void TakeSeat(const PlanInput& in, const SeqState& state, Room& room) {
  ++room.seats;
  ++room.tenant_seats[state.tenant];
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (HasGroup(in, g)) room.free[g] -= BlocksToFinish(in, state, g);
  }
}

void GiveSeat(const PlanInput& in, int seq, Room& room) {
  const SeqState& state = in.seated[seq];
  room.out[seq] = true;
  --room.seats;
  --room.tenant_seats[state.tenant];
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    room.free[g] += std::max<int64_t>(state.blocks[g].held, BlocksToFinish(in, state, g));
  }
}

// Whether a seated sequence before `seq` has the same tenant.
bool HasBetterOfItsTenant(const PlanInput& in, const Room& room, int seq) {
  for (int i = 0; i < seq; ++i) {
    if (!room.out[i] && in.seated[i].tenant == in.seated[seq].tenant) return true;
  }
  return false;
}

// The worst-ranked of the tenant with most seats, when these are two more than `tenant` has;
// else -1. Never the best-ranked of its tenant.
int SwapVictim(const PlanInput& in, const Room& room, int tenant) {
  const int most = *std::max_element(room.tenant_seats.begin(), room.tenant_seats.end());
  if (most <= room.tenant_seats[tenant] + 1) return -1;
  for (int i = static_cast<int>(in.seated.size()) - 1; i >= 0; --i) {
    if (!room.out[i] && room.tenant_seats[in.seated[i].tenant] == most &&
        HasBetterOfItsTenant(in, room, i)) {
      return i;
    }
  }
  return -1;
}

// Makes room for `state`: paused sequences go first, then, if it may swap, those of the tenant with
// most seats. Changes nothing when even that is not enough.
//   returns  whether there is room, and whether it took a swap
struct RoomMade {
  bool made = false;
  bool swapped = false;
};
RoomMade MakeRoom(const PlanInput& in, const SeqState& state, bool may_swap, Room& room) {
  Room trial = room;
  bool swapped = false;
  for (int i = static_cast<int>(in.seated.size()) - 1; i >= 0 && !Fits(in, trial, state); --i) {
    if (in.seated[i].paused && !trial.out[i]) GiveSeat(in, i, trial);
  }
  while (!Fits(in, trial, state)) {
    const int victim = may_swap ? SwapVictim(in, trial, state.tenant) : -1;
    if (victim < 0) return {};
    GiveSeat(in, victim, trial);
    swapped = true;
  }
  room = std::move(trial);
  return {.made = true, .swapped = swapped};
}

// Everybody who may take part: who stays seated, and who is seated now.
std::vector<Candidate> SeatCandidates(const PlanInput& in, StepPlan& plan) {
  const int num_seated = static_cast<int>(in.seated.size());
  Room room = RoomOf(in);
  std::vector<Candidate> candidates;
  candidates.reserve(in.seated.size() + in.waiting.size());
  int swaps = 0;
  for (size_t i = 0; i < in.waiting.size(); ++i) {
    const SeqState& state = in.waiting[i];
    Candidate candidate = {.state = &state, .seq = num_seated + static_cast<int>(i)};
    if (!Fits(in, room, state)) {
      const RoomMade room_made = MakeRoom(in, state, swaps < kMaxSwaps, room);
      if (!room_made.made) break;
      swaps += room_made.swapped;
      candidate.must_seat = true;
    }
    TakeSeat(in, state, room);
    candidates.push_back(candidate);
  }
  for (int i = 0; i < num_seated; ++i) {
    if (room.out[i]) {
      plan.make_room.push_back(i);
    } else {
      candidates.push_back({.state = &in.seated[i], .seq = i, .seated = true});
    }
  }
  return candidates;
}

// Into the order of this file's header: by turn, then by rank, paused ones last.
void Order(const PlanInput& in, std::vector<Candidate>& candidates) {
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.state->rank < b.state->rank; });
  std::vector<int> turns(in.seated.size() + in.waiting.size());  // next one, by tenant
  for (Candidate& c : candidates) {
    if (!c.state->paused) c.turn = turns[c.state->tenant]++;
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) {
                     if (a.state->paused != b.state->paused) return b.state->paused;
                     return a.turn < b.turn;
                   });
}

// Deals `rows_left` rows out to prompts: equally among tenants, as far as they have use for them,
// and by rank within a tenant.
//   returns  whether there were too few
bool SharePromptRows(std::vector<Candidate>& candidates, int rows_left) {
  using Prompts = std::vector<Candidate*>;  // of one tenant, with rows still to get, by rank
  std::vector<Prompts> tenants;             // in the order of their first candidates
  std::vector<int> index_of;                // by tenant; -1: none of its prompts seen
  for (Candidate& c : candidates) {
    if (c.state->paused || c.state->decoding()) continue;
    const size_t tenant = c.state->tenant;
    if (tenant >= index_of.size()) index_of.resize(tenant + 1, -1);
    if (index_of[tenant] < 0) {
      index_of[tenant] = static_cast<int>(tenants.size());
      tenants.emplace_back();
    }
    tenants[index_of[tenant]].push_back(&c);
  }
  while (rows_left > 0 && !tenants.empty()) {
    // The first in the order gets a row even if there are more tenants than rows.
    const int share = std::max(1, rows_left / static_cast<int>(tenants.size()));
    for (Prompts& prompts : tenants) {
      int rows = std::min(share, rows_left);
      while (rows > 0 && !prompts.empty()) {
        Candidate& c = *prompts.front();
        const int open = c.state->known_tokens - c.state->kv_tokens - c.want;
        const int taken = std::min(rows, open);
        c.want += taken;
        rows -= taken;
        rows_left -= taken;
        if (taken == open) prompts.erase(prompts.begin());
      }
    }
    std::erase_if(tenants, [](const Prompts& prompts) { return prompts.empty(); });
  }
  return !tenants.empty();
}

// Shortens `lengths`, the longest first, until their sum is no more than `budget`. Of equals the
// last are shortened first.
void ShortenLongest(std::vector<int>& lengths, int64_t budget) {
  const int64_t sum = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  if (sum <= budget) return;
  std::vector<int> granted(lengths.size());
  for (int length = 1; budget > 0; ++length) {
    for (size_t i = 0; i < lengths.size() && budget > 0; ++i) {
      if (lengths[i] < length) continue;
      granted[i] = length;
      --budget;
    }
  }
  lengths = std::move(granted);
}

// Decoders take one row and rows for their guesses, prompts share what is left over.
//   returns  whether prompts could have used more rows
bool ShareRows(const PlanInput& in, std::vector<Candidate>& candidates) {
  std::vector<Candidate*> decoders;
  std::vector<int> drafts;
  int64_t prompt_rows = 0;  // that could run
  for (Candidate& c : candidates) {
    if (c.state->paused) continue;
    if (c.state->decoding()) {
      decoders.push_back(&c);
      drafts.push_back(c.state->drafts);
    } else {
      prompt_rows += c.state->known_tokens - c.state->kv_tokens;
    }
  }
  int rows_left = in.config.max_step_rows - static_cast<int>(decoders.size());
  ShortenLongest(drafts, rows_left - std::min<int64_t>(prompt_rows, in.config.min_chunk_rows));
  for (size_t i = 0; i < decoders.size(); ++i) {
    decoders[i]->want = 1 + drafts[i];
    rows_left -= drafts[i];
  }
  if (!decoders.empty()) {
    rows_left = PromptRowsWithin(in.cost, in.config.max_step_rows - rows_left,
                                 in.config.step_target_us, in.config.min_chunk_rows, rows_left);
  }
  return SharePromptRows(candidates, rows_left);
}

// Entries that the block table has, or gets by what is planned already.
int64_t PlannedTable(const PlanInput& in, const Candidate& c, int group) {
  return std::max(c.state->blocks[group].table,
                  kvcache::BlocksFor(int64_t{c.state->kv_tokens} + c.rows, in.limits.block_tokens));
}

// Rows that the sequence can run with what it has and `free` more blocks.
int RowsThatFit(const PlanInput& in, const Candidate& c, const Blocks& free) {
  int64_t rows = INT_MAX;
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (!HasGroup(in, g)) continue;
    rows = std::min(
        rows, (PlannedTable(in, c, g) + free[g]) * in.limits.block_tokens - c.state->kv_tokens);
  }
  return static_cast<int>(rows);
}

// Plans `rows`, as many as before or more, and takes the blocks for them.
void TakeRows(const PlanInput& in, Candidate& c, int rows, Blocks& free) {
  Blocks before = {};
  for (int g = 0; g < engine::kNumKvGroups; ++g) before[g] = PlannedTable(in, c, g);
  c.rows = rows;
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (HasGroup(in, g)) free[g] -= PlannedTable(in, c, g) - before[g];
  }
}

// Blocks for the guesses, as far as they are free: the longest drafts go short first.
void TakeDraftRows(const PlanInput& in, std::vector<Candidate>& candidates, Blocks& free) {
  bool more = true;
  for (int rows = 2; more; ++rows) {
    more = false;
    for (Candidate& c : candidates) {
      if (!c.state->decoding() || c.rows != rows - 1 || c.want < rows) continue;
      if (RowsThatFit(in, c, free) < rows) continue;
      TakeRows(in, c, rows, free);
      more = true;
    }
  }
}

// Decides how much is guessed behind what `plan` draws.
void PlanGuesses(const PlanInput& in, StepPlan& plan) {
  if (in.config.max_draft_tokens == 0) return;
  std::vector<SeqRows*> drawing;
  std::vector<DraftWish> wishes;
  for (std::vector<SeqRows>* list : {&plan.decode, &plan.prefill}) {
    for (SeqRows& rows : *list) {
      const auto seq = static_cast<size_t>(rows.seq);
      const SeqState& state =
          seq < in.seated.size() ? in.seated[seq] : in.waiting[seq - in.seated.size()];
      const bool draws = rows.first_position + rows.rows - rows.drafts == state.known_tokens;
      if (!draws || !state.wish.has_value()) continue;
      drawing.push_back(&rows);
      wishes.push_back(*state.wish);
      wishes.back().pending = rows.drafts;
    }
  }
  DraftChoice choice = ChooseDraftLengths(wishes, in.draft_prior, in.cost, in.step);
  // More would not find rows in the next step.
  ShortenLongest(choice.tokens, in.config.max_step_rows - in.config.min_chunk_rows -
                                    static_cast<int64_t>(wishes.size()));
  for (size_t i = 0; i < drawing.size(); ++i) {
    drawing[i]->guess = choice.tokens[i];
    drawing[i]->reason = choice.reasons[i];
  }
  plan.plain_tokens_per_s = choice.plain_tokens_per_s;
  plan.drafted_tokens_per_s = choice.drafted_tokens_per_s;
}

// The last seated candidate behind `from`; null when there is none.
Candidate* LastBehind(std::vector<Candidate>& candidates, size_t from) {
  for (size_t i = candidates.size(); i-- > from + 1;) {
    if (candidates[i].seated && !candidates[i].preempted) return &candidates[i];
  }
  return nullptr;
}

}  // namespace

Rank RankOf(const SchedulerConfig& config, const Request& request, RequestId id, int choice) {
  const int64_t priority = std::clamp(request.priority, -100, 100);
  return {.key_us = request.arrival_us - priority * config.priority_point_us,
          .request = id,
          .choice = choice};
}

StepPlan PlanStep(const PlanInput& in) {
  StepPlan plan;
  std::vector<Candidate> candidates = SeatCandidates(in, plan);
  Order(in, candidates);
  plan.prompts_limited = ShareRows(in, candidates);

  // First one row for everybody, in order, so that a long chunk cannot take the block that a
  // decoder behind it needs; who finds none takes the blocks of the last.
  Blocks free = {};
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    free[g] = in.free_blocks[g];
    for (const int seq : plan.make_room) free[g] += in.seated[seq].blocks[g].held;
  }
  for (size_t i = 0; i < candidates.size(); ++i) {
    Candidate& c = candidates[i];
    if (c.preempted || c.want == 0) continue;
    while (c.seated && RowsThatFit(in, c, free) < 1) {
      Candidate* victim = LastBehind(candidates, i);
      if (victim == nullptr) break;
      victim->preempted = true;
      (victim->state->paused ? plan.make_room : plan.preempt).push_back(victim->seq);
      for (int g = 0; g < engine::kNumKvGroups; ++g) free[g] += victim->state->blocks[g].held;
    }
    if (RowsThatFit(in, c, free) >= 1) TakeRows(in, c, 1, free);
  }
  // Then the rest of the chunks, and guesses last.
  for (Candidate& c : candidates) {
    if (c.rows == 0 || c.state->decoding()) continue;
    TakeRows(in, c, std::min(c.want, RowsThatFit(in, c, free)), free);
  }
  TakeDraftRows(in, candidates, free);

  for (const Candidate& c : candidates) {
    if (!c.seated && (c.rows > 0 || c.must_seat)) plan.admit.push_back(c.seq);
    if (c.rows == 0) continue;
    const bool decoding = c.state->decoding();
    (decoding ? plan.decode : plan.prefill)
        .push_back({.seq = c.seq,
                    .first_position = c.state->kv_tokens,
                    .rows = c.rows,
                    .drafts = decoding ? c.rows - 1 : 0});
  }
  PlanGuesses(in, plan);
  return plan;
}

}  // namespace tandem::scheduler
