// What the scheduler tells about itself, as plain numbers.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "engine/step.h"
#include "scheduler/request.h"

namespace tandem::scheduler {

constexpr int kNumFinishReasons = static_cast<int>(FinishReason::kAborted) + 1;
constexpr int kNumStatusCodes = 17;  // absl::StatusCode, OK included

// A snapshot; each number is exact, but two may be one step apart. *_total count from the start.
struct SchedulerStats {
  int64_t running = 0;               // sequences with a seat, paused ones included
  int64_t waiting = 0;               // submitted sequences that do not, preempted ones included
  int64_t preempted_now = 0;         // of these, the ones that have run before
  int64_t paused = 0;                // requests whose readers are too slow
  int64_t queued_requests = 0;       // reservations: from a parsed message to its first row
  int64_t queued_prompt_tokens = 0;  // of these, times their choices
  int64_t queued_bytes = 0;          // of these
  std::array<int64_t, engine::kNumKvGroups> blocks_total = {};
  std::array<int64_t, engine::kNumKvGroups> blocks_used = {};    // held by sequences
  std::array<int64_t, engine::kNumKvGroups> blocks_cached = {};  // held by nobody, but reusable
  // Prompt tokens of requests that may read the prefix cache, from their first row on, and
  // RequestStats::cached_prompt_tokens of these.
  int64_t prefix_query_tokens_total = 0;
  int64_t prefix_hit_tokens_total = 0;
  int64_t prefix_evicted_blocks_total = 0;  // reusable blocks that gave way to new ones
  int64_t steps_total = 0;
  int64_t prompt_tokens_total = 0;  // rows of prompts, first computation only
  int64_t generated_tokens_total = 0;
  int64_t recomputed_tokens_total = 0;  // rows that ran again after a preemption
  int64_t preemptions_total = 0;
  int64_t last_step_us = 0;
  double step_us = 0;              // weighted mean of the last steps
  double prompt_tokens_per_s = 0;  // when prompts are more than a step holds; 0: not measured yet
  int64_t last_turn_us = 0;        // when a turn last ended or began its step; an idle loop turns
                                   // once a second
  std::array<int64_t, kNumFinishReasons> choices_finished_total = {};  // by FinishReason
  std::array<int64_t, kNumStatusCodes> requests_finished_total = {};   // by absl::StatusCode
  DraftCounts drafts;                                                  // from the start
  int64_t drafting = 0;              // sequences that asked for a draft in the last step
  double draft_tokens = 0;           // mean length of these drafts
  int64_t draft_auto_off_total = 0;  // times that a sequence's guesses stopped paying off
  bool draining = false;
  bool engine_down = false;
};

// What waits for its turn: requests that are tokenized or queued, and sequences that were
// preempted.
inline int64_t WaitingRequests(const SchedulerStats& stats) {
  return stats.queued_requests + stats.preempted_now;
}

// The used share of the fuller block pool, 0 to 1: the one that requests will wait for.
inline double KvUsage(const SchedulerStats& stats) {
  double usage = 0.0;
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (stats.blocks_total[g] == 0) continue;  // the model has no such layers
    usage = std::max(usage, static_cast<double>(stats.blocks_used[g]) /
                                static_cast<double>(stats.blocks_total[g]));
  }
  return usage;
}

// One step that ran, for histograms.
struct StepTiming {
  int rows = 0;             // = prompt_rows + decode_rows
  int prompt_rows = 0;      // rows recomputed after a preemption included
  int decode_rows = 0;      // newest tokens and the drafts behind them
  int draft_rows = 0;       // of these, drafts
  int accepted_rows = 0;    // of these, guesses that held
  int drafting = 0;         // sequences that asked for a draft
  int draft_steps = 0;      // forwards of the drafter
  int64_t duration_us = 0;  // the engine, drafting included
  int64_t draft_us = 0;     // of this, drafting
  int64_t schedule_us = 0;  // the rest of the turn: inbox, plan, commit, events
};

}  // namespace tandem::scheduler
