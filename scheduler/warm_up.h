// What steps cost, measured before the first request: where the cost model starts.
//
// Runs steps of made-up sequences through the engine while the pools are empty: decode steps of
// rising numbers of rows, and drafts for rising numbers of slots. What the time does not suffice
// for, and what depends on real contexts, is left to be learnt (cost_model.h).
//
// Source    mtp.md 2.8. Not here  how long it may take (server/).
// Threads   before the scheduler's thread starts.
#pragma once

#include <cstdint>

#include "engine/step.h"
#include "scheduler/config.h"
#include "scheduler/cost_model.h"
#include "scheduler/scheduler.h"

namespace tandem::scheduler {

// Measures 1, 2, 3, 4, 6, 8, 12, 16, ... rows, as many as max_slots drafts fill, and drafts for 1,
// 2, 4, 8, ... slots, the small ones first: each once without looking and once more, three times in
// turn, until `budget_us` is used up (the last step may run over it). Writes K/V rows into the
// first blocks of the pools, which are garbage to everybody.
//   returns  an empty model when there is no drafter (max_draft_tokens is 0): nothing to decide
//            yet. What was measured so far, when a step fails
CostModel MeasureCosts(const engine::RunStep& run_step, const SchedulerConfig& config,
                       const ModelLimits& limits, const Clock& now_us, int64_t budget_us);

}  // namespace tandem::scheduler
