#include "scheduler/plan_step.h"

#include <algorithm>
#include <climits>
#include <map>
#include <numeric>
#include <utility>

#include "kvcache/block_table.h"
#include "scheduler/block_account.h"
#include "scheduler/plan_seats.h"

namespace tandem::scheduler {
namespace {

// What of SeqState::reuse a sequence takes.
enum class ReuseLevel { kNothing, kBlocks, kCopy };

// One sequence while the plan grows.
struct Candidate {
  const SeqState* state = nullptr;
  int seq = 0;
  bool seated = false;
  bool preempted = false;
  bool must_seat = false;  // others made room for it
  int turn = 0;
  ReuseLevel level = ReuseLevel::kNothing;  // expected, before blocks are looked for
  bool reuses = false;                      // it takes that
  int leader = -1;     // index of the candidate that computes its next block; -1: itself
  bool waits = false;  // for this one, which has rows
  int want = 0;        // rows, guesses included, before blocks are looked for
  int rows = 0;        // rows planned

  // Where its rows begin.
  int kv_tokens() const {
    switch (level) {
      case ReuseLevel::kNothing:
        break;
      case ReuseLevel::kBlocks:
        return std::max(state->kv_tokens, state->reuse.tokens);
      case ReuseLevel::kCopy:
        return state->reuse.copied_to;
    }
    return state->kv_tokens;
  }
  int rows_to_run() const { return state->known_tokens - kv_tokens(); }
  bool decoding() const { return kv_tokens() >= state->prompt_tokens && rows_to_run() == 1; }
};

bool HasGroup(const PlanInput& in, int group) { return in.limits.num_blocks[group] > 0; }

std::vector<Candidate> CandidatesOf(const PlanInput& in, const SeatChoice& choice) {
  std::vector<Candidate> candidates;
  candidates.reserve(choice.candidates.size());
  const int num_seated = static_cast<int>(in.seated.size());
  for (const SeatCandidate& seat : choice.candidates) {
    const bool seated = seat.seq < num_seated;
    candidates.push_back(
        {.state = seated ? &in.seated[seat.seq] : &in.waiting[seat.seq - num_seated],
         .seq = seat.seq,
         .seated = seated,
         .must_seat = seat.must_seat});
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

// By seq: the index of its candidate; -1: it has none.
std::vector<int> IndexBySeq(const PlanInput& in, const std::vector<Candidate>& candidates) {
  std::vector<int> index(in.seated.size() + in.waiting.size(), -1);
  for (size_t i = 0; i < candidates.size(); ++i) index[candidates[i].seq] = static_cast<int>(i);
  return index;
}

// Whether the block that candidate `i` would copy is there when the step begins, whatever is
// planned for those behind it.
bool MayCopy(const std::vector<Candidate>& candidates, const std::vector<int>& index_by_seq,
             size_t i) {
  const Reuse& reuse = candidates[i].state->reuse;
  if (reuse.copied_to == 0) return false;
  const int owner = index_by_seq[reuse.copy_seq];
  return owner >= 0 && owner < static_cast<int>(i) && candidates[owner].seated &&
         !candidates[owner].preempted;
}

// Who reuses what, and who waits for whose rows.
void FindLeaders(const std::vector<int>& index_by_seq, std::vector<Candidate>& candidates) {
  std::map<int, int> leaders;  // by the number of the block they compute
  for (size_t i = 0; i < candidates.size(); ++i) {
    Candidate& c = candidates[i];
    if (c.state->paused) continue;
    if (c.state->reuse.tokens > 0) c.level = ReuseLevel::kBlocks;
    const auto leader = leaders.find(c.state->awaits);
    if (leader != leaders.end()) {
      c.leader = leader->second;
      continue;
    }
    if (MayCopy(candidates, index_by_seq, i)) c.level = ReuseLevel::kCopy;
    if (c.state->computes >= 0 && c.rows_to_run() > 1) {
      leaders.emplace(c.state->computes, static_cast<int>(i));
    }
  }
}

// Deals `rows_left` rows out to prompts: equally among tenants, as far as they have use for them,
// and by rank within a tenant.
//   returns  whether there were too few
bool SharePromptRows(std::vector<Candidate>& candidates, int rows_left) {
  using Prompts = std::vector<Candidate*>;  // of one tenant, with rows still to get, by rank
  std::vector<Prompts> tenants;             // in the order of their first candidates
  std::vector<int> index_of;                // by tenant; -1: none of its prompts seen
  for (Candidate& c : candidates) {
    if (c.state->paused || c.leader >= 0 || c.decoding()) continue;
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
        const int open = c.rows_to_run() - c.want;
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
    if (c.state->paused || c.leader >= 0) continue;
    if (c.decoding()) {
      decoders.push_back(&c);
      drafts.push_back(c.state->drafts);
    } else {
      prompt_rows += c.rows_to_run();
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

// Entries that the block table has, once the sequence has reused what it can, or gets by what is
// planned already.
int64_t PlannedTable(const PlanInput& in, const Candidate& c, int group) {
  const bool reuses = c.level != ReuseLevel::kNothing && c.state->reuse.tokens > 0;
  const int table =
      reuses ? c.state->reuse.tokens / in.limits.block_tokens : c.state->blocks[group].table;
  if (c.rows == 0) return table;  // rows of a copy come with the first row of its own
  return std::max(table,
                  kvcache::BlocksFor(int64_t{c.kv_tokens()} + c.rows, in.limits.block_tokens));
}

// What is left of the free blocks when the sequence has reused what it can.
Blocks FreeBehindReuse(const Candidate& c, const BlockAccount& account) {
  Blocks free = account.free();
  if (c.level == ReuseLevel::kNothing || c.reuses) return free;
  const Blocks cost = account.CostOfReuse(c.seq);
  for (int g = 0; g < engine::kNumKvGroups; ++g) free[g] -= cost[g];
  return free;
}

bool ReuseFits(const Candidate& c, const BlockAccount& account) {
  const Blocks free = FreeBehindReuse(c, account);
  return std::all_of(free.begin(), free.end(), [](int64_t blocks) { return blocks >= 0; });
}

// Rows that the sequence can run with what it has and can get.
int RowsThatFit(const PlanInput& in, const Candidate& c, const BlockAccount& account) {
  if (!ReuseFits(c, account)) return 0;
  const Blocks free = FreeBehindReuse(c, account);
  int64_t rows = INT_MAX;
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (!HasGroup(in, g)) continue;
    rows =
        std::min(rows, (PlannedTable(in, c, g) + free[g]) * in.limits.block_tokens - c.kv_tokens());
  }
  return static_cast<int>(rows);
}

// Lowers what is reused until a row fits.
//   returns  false: not even with nothing reused, which the level then is
bool FindLevel(const PlanInput& in, bool may_copy, const BlockAccount& account, Candidate& c) {
  const ReuseLevel without_copy =
      c.state->reuse.tokens > 0 ? ReuseLevel::kBlocks : ReuseLevel::kNothing;
  if (c.level == ReuseLevel::kCopy && !may_copy) c.level = without_copy;
  while (RowsThatFit(in, c, account) < 1) {
    if (c.level == ReuseLevel::kNothing) return false;
    c.level = c.level == ReuseLevel::kCopy ? without_copy : ReuseLevel::kNothing;
  }
  return true;
}

void TakeReuse(Candidate& c, BlockAccount& account) {
  if (c.level == ReuseLevel::kNothing) return;
  account.TakeReuse(c.seq);
  c.reuses = true;
}

// Plans `rows`, as many as before or more, and takes the blocks for them.
void TakeRows(const PlanInput& in, Candidate& c, int rows, BlockAccount& account) {
  Blocks before = {};
  for (int g = 0; g < engine::kNumKvGroups; ++g) before[g] = PlannedTable(in, c, g);
  c.rows = rows;
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (HasGroup(in, g)) account.Add(g, before[g] - PlannedTable(in, c, g));
  }
}

// Blocks for the guesses, as far as they are free: the longest drafts go short first.
void TakeDraftRows(const PlanInput& in, std::vector<Candidate>& candidates, BlockAccount& account) {
  bool more = true;
  for (int rows = 2; more; ++rows) {
    more = false;
    for (Candidate& c : candidates) {
      if (!c.decoding() || c.rows != rows - 1 || c.want < rows) continue;
      if (RowsThatFit(in, c, account) < rows) continue;
      TakeRows(in, c, rows, account);
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

// Who gives its blocks to candidate `i`, for which they do not suffice: the last seated one behind
// it that has some to give, in a group where they are short. When each of these shares them with
// others, the last that has any.
//   returns  null: there is none
Candidate* FindVictim(const PlanInput& in, const BlockAccount& account,
                      std::vector<Candidate>& candidates, size_t i) {
  const Candidate& needy = candidates[i];
  Candidate* last = nullptr;
  for (size_t k = candidates.size(); k-- > i + 1;) {
    Candidate& c = candidates[k];
    if (!c.seated || c.preempted) continue;
    const Blocks freed = account.FreedBy(c.seq);
    for (int g = 0; g < engine::kNumKvGroups; ++g) {
      if (!HasGroup(in, g)) continue;
      const int64_t blocks = PlannedTable(in, needy, g) + account.free()[g];
      const bool is_short = blocks * in.limits.block_tokens <= needy.kv_tokens();
      if (is_short && freed[g] > 0) return &c;
      if (last == nullptr && c.state->blocks[g].held > 0) last = &c;
    }
  }
  return last;
}

// The rows that the leader of candidate `i` cannot run go to `i`, and whoever else waited for them
// waits for `i`.
void TakeLead(std::vector<Candidate>& candidates, size_t i) {
  Candidate& c = candidates[i];
  const int before = c.leader;
  c.want = std::min(std::exchange(candidates[before].want, 0), c.rows_to_run());
  c.leader = -1;
  for (Candidate& other : candidates) {
    if (other.leader == before) other.leader = static_cast<int>(i);
  }
}

// One row for everybody, in order, so that a long chunk cannot take the block that a decoder behind
// it needs; who finds none takes the blocks of others behind.
void TakeFirstRows(const PlanInput& in, const std::vector<int>& index_by_seq,
                   std::vector<Candidate>& candidates, BlockAccount& account, StepPlan& plan) {
  for (size_t i = 0; i < candidates.size(); ++i) {
    Candidate& c = candidates[i];
    if (c.preempted) continue;
    if (c.leader >= 0) {
      c.waits = candidates[c.leader].rows > 0;
      if (c.waits) {  // what it needs next stays where it is
        if (ReuseFits(c, account)) TakeReuse(c, account);
        continue;
      }
      TakeLead(candidates, i);
    }
    if (c.want == 0) continue;
    const ReuseLevel level = c.level;
    bool fits = FindLevel(in, MayCopy(candidates, index_by_seq, i), account, c);
    while (!fits && c.seated) {
      Candidate* victim = FindVictim(in, account, candidates, i);
      if (victim == nullptr) break;
      victim->preempted = true;
      (victim->state->paused ? plan.make_room : plan.preempt).push_back(victim->seq);
      account.Leave(victim->seq);
      c.level = level;
      fits = FindLevel(in, MayCopy(candidates, index_by_seq, i), account, c);
    }
    if (!fits) continue;
    TakeReuse(c, account);
    TakeRows(in, c, 1, account);
  }
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
  const Sharing sharing(in);
  SeatChoice seats = ChooseSeats(in, sharing);
  plan.make_room = std::move(seats.make_room);
  std::vector<Candidate> candidates = CandidatesOf(in, seats);
  Order(in, candidates);
  const std::vector<int> index_by_seq = IndexBySeq(in, candidates);
  FindLeaders(index_by_seq, candidates);
  plan.prompts_limited = ShareRows(in, candidates);

  BlockAccount account(in, sharing);
  for (const int seq : plan.make_room) account.Leave(seq);
  TakeFirstRows(in, index_by_seq, candidates, account, plan);
  // Then the rest of the chunks, and guesses last.
  for (Candidate& c : candidates) {
    if (c.rows == 0 || c.decoding()) continue;
    const int rows = std::min({c.want, c.rows_to_run(), RowsThatFit(in, c, account)});
    TakeRows(in, c, std::max(c.rows, rows), account);
  }
  TakeDraftRows(in, candidates, account);

  for (const Candidate& c : candidates) {
    if (!c.seated && (c.rows > 0 || c.waits || c.must_seat)) plan.admit.push_back(c.seq);
    if (c.reuses) {
      SeqReuse reuse = {.seq = c.seq, .reuse = c.state->reuse};
      if (c.level != ReuseLevel::kCopy) reuse.reuse.copied_to = 0;
      plan.reuse.push_back(reuse);
    }
    if (c.rows == 0) continue;
    const bool decoding = c.decoding();
    (decoding ? plan.decode : plan.prefill)
        .push_back({.seq = c.seq,
                    .first_position = c.kv_tokens(),
                    .rows = c.rows,
                    .drafts = decoding ? c.rows - 1 : 0});
  }
  PlanGuesses(in, plan);
  return plan;
}

}  // namespace tandem::scheduler
