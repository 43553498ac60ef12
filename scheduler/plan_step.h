// Who runs in the next step, with how many rows, and who must give its blocks back.
//
// A pure function of plain states: no clock, no device, no pool. What it was given can be recorded
// and replayed to the same plan.
//
// Every sequence has a rank that never changes (see Rank), and everything here follows the one
// order: prompt chunks go to the first in rank, the queue is left in rank order without skipping,
// blocks are taken from the last in rank. Hence nobody starves:
//   - The first in rank among the seated is never preempted and always finds blocks for a row: a
//     sequence that outgrows the empty pools is refused or ends (MaxSequenceTokens), and everybody
//     behind it can be preempted. It has rows to run in every step that newcomers of better rank
//     leave it, so it ends.
//   - The first in the queue is seated at the latest when all seated sequences have ended, since
//     nobody behind it is seated before it. Preempted sequences go back to their rank.
//   - Only finitely many requests can ever come before a given one: priority buys a fixed head
//     start, so later arrivals fall behind it at some point.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <vector>

#include "engine/step.h"
#include "scheduler/config.h"
#include "scheduler/cost_model.h"
#include "scheduler/request.h"

namespace tandem::scheduler {

// The order of service, smaller first: by arrival, where every point of priority counts as an
// arrival `priority_point_us` earlier; then by submission, then by choice.
struct Rank {
  int64_t key_us = 0;
  RequestId request = 0;
  int choice = 0;
  auto operator<=>(const Rank&) const = default;
};
Rank RankOf(const SchedulerConfig& config, const Request& request, RequestId id, int choice);

struct GroupBlocks {
  int table = 0;  // entries of the block table, released ones included
  int held = 0;   // blocks held
};

// One sequence, as far as planning needs it.
struct SeqState {
  Rank rank;
  int prompt_tokens = 0;
  int known_tokens = 0;  // prompt and what was generated
  int kv_tokens = 0;     // rows in the cache, below known_tokens; 0 after a preemption
  std::array<GroupBlocks, engine::kNumKvGroups> blocks;

  // Past its prompt and with one row to run; anything else runs in chunks.
  bool decoding() const { return kv_tokens >= prompt_tokens && known_tokens - kv_tokens == 1; }
};

struct PlanInput {
  SchedulerConfig config;
  ModelLimits limits;
  CostModel cost;
  std::array<int32_t, engine::kNumKvGroups> free_blocks = {};
  std::vector<SeqState> seated;   // by rank
  std::vector<SeqState> waiting;  // by rank; no more than could be seated need be given
};

// Rows of one sequence. `seq` counts through seated, then on through waiting.
struct SeqRows {
  int seq = 0;
  int first_position = 0;
  int rows = 0;
  bool operator==(const SeqRows&) const = default;
};

struct StepPlan {
  std::vector<SeqRows> decode;   // one row each, by rank
  std::vector<SeqRows> prefill;  // chunks, by rank
  std::vector<int> preempt;      // indexes of seated sequences whose blocks are to be freed first
  int admit = 0;                 // so many of the first waiting sequences are seated
  bool operator==(const StepPlan&) const = default;
};

// Plans one step.
//   decode   every decoding sequence, unless it finds no block and nobody behind it to take one
//   from:
//            then it waits in its seat
//   prefill  rows left over go to prompts by rank; while anyone decodes, no more of them than keep
//            the step near config.step_target_us by the cost model
//   admit    sequences for which a slot and the blocks of all their known tokens are free, beside
//            what the seated ones still need for theirs and a block for each to grow
// With a sequence in either list, and states as the scheduler keeps them, some row runs.
StepPlan PlanStep(const PlanInput& input);

}  // namespace tandem::scheduler
