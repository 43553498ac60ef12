#include "scheduler/plan_step.h"

#include <algorithm>
#include <climits>

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
  int want = 0;  // rows, before blocks are looked for
  int rows = 0;  // rows planned
};

bool HasGroup(const PlanInput& in, int group) { return in.limits.num_blocks[group] > 0; }

// Blocks a sequence has to hold, at most, to run all its known tokens and one more.
int64_t BlocksToFinish(const PlanInput& in, const SeqState& state, int group) {
  const int all = kvcache::BlocksFor(int64_t{state.known_tokens} + 1, in.limits.block_tokens);
  return group == engine::kSliding ? std::min(all, SlidingBlocksHeld(in.limits)) : all;
}

// How many of the first waiting sequences may be seated.
int CountAdmissible(const PlanInput& in) {
  Blocks free = {};
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    free[g] = in.free_blocks[g];
    for (const SeqState& state : in.seated) {
      free[g] -= std::max<int64_t>(0, BlocksToFinish(in, state, g) - state.blocks[g].held);
    }
  }
  int64_t seats = static_cast<int64_t>(in.seated.size());
  int admit = 0;
  for (const SeqState& state : in.waiting) {
    if (seats >= in.config.max_slots) return admit;
    for (int g = 0; g < engine::kNumKvGroups; ++g) {
      if (!HasGroup(in, g)) continue;
      // One block to grow for everybody seated before, or they would be at each other's throat
      // soon.
      if (BlocksToFinish(in, state, g) + seats > free[g]) return admit;
      free[g] -= BlocksToFinish(in, state, g);
    }
    ++seats;
    ++admit;
  }
  return admit;
}

// Decoders take one row; prompts share what is left over, first come first served.
void ShareRows(const PlanInput& in, std::vector<Candidate>& candidates) {
  int decoders = 0;
  for (Candidate& c : candidates) {
    if (!c.state->decoding()) continue;
    c.want = 1;
    ++decoders;
  }
  int rows_left = in.config.max_step_rows - decoders;
  if (decoders > 0) {
    rows_left = PromptRowsWithin(in.cost, decoders, in.config.step_target_us,
                                 in.config.min_chunk_rows, rows_left);
  }
  for (Candidate& c : candidates) {
    if (c.state->decoding()) continue;
    c.want = std::min(rows_left, c.state->known_tokens - c.state->kv_tokens);
    rows_left -= c.want;
  }
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
  const int num_seated = static_cast<int>(in.seated.size());
  const int admissible = CountAdmissible(in);
  std::vector<Candidate> candidates;  // by rank
  candidates.reserve(num_seated + admissible);
  for (int i = 0; i < num_seated; ++i) {
    candidates.push_back({.state = &in.seated[i], .seq = i, .seated = true});
  }
  for (int i = 0; i < admissible; ++i) {
    candidates.push_back({.state = &in.waiting[i], .seq = num_seated + i});
  }
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.state->rank < b.state->rank; });
  ShareRows(in, candidates);

  // First one row for everybody, by rank, so that a long chunk cannot take the block that a decoder
  // behind it needs; who finds none takes the blocks of the last in rank.
  StepPlan plan;
  Blocks free = {};
  for (int g = 0; g < engine::kNumKvGroups; ++g) free[g] = in.free_blocks[g];
  for (size_t i = 0; i < candidates.size(); ++i) {
    Candidate& c = candidates[i];
    if (c.preempted || c.want == 0) continue;
    while (c.seated && RowsThatFit(in, c, free) < 1) {
      Candidate* victim = LastBehind(candidates, i);
      if (victim == nullptr) break;
      victim->preempted = true;
      plan.preempt.push_back(victim->seq);
      for (int g = 0; g < engine::kNumKvGroups; ++g) free[g] += victim->state->blocks[g].held;
    }
    if (RowsThatFit(in, c, free) >= 1) TakeRows(in, c, 1, free);
  }
  // Then the rest of the chunks.
  for (Candidate& c : candidates) {
    if (c.rows > 0) TakeRows(in, c, std::min(c.want, RowsThatFit(in, c, free)), free);
  }

  for (const Candidate& c : candidates) {
    if (c.rows == 0) continue;
    std::vector<SeqRows>& out = c.state->decoding() ? plan.decode : plan.prefill;
    out.push_back({.seq = c.seq, .first_position = c.state->kv_tokens, .rows = c.rows});
    if (!c.seated) ++plan.admit;
  }
  return plan;
}

}  // namespace tandem::scheduler
