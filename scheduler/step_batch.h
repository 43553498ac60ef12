// From planned rows to the flat arrays of a step.
//
// Not here  who runs (plan_step.h), what the results do (scheduler.cc).
#pragma once

#include <span>
#include <vector>

#include "engine/step.h"
#include "scheduler/sequence.h"

namespace tandem::scheduler {

// `rows` rows of one sequence, from kv_tokens on; its block tables cover them.
struct SeatRows {
  Sequence* sequence = nullptr;
  int rows = 0;
};

// What the engine runs: one segment per entry of `seats`, in order. Rows ask for
//   - the log-probability of the next prompt token, when the request wants it, for choice 0 and for
//     positions that were not sent before (RequestState::next_scored): params == null
//   - a token, in the row of the last known token, when max_tokens > 0
// The batch points into the sequences and their requests; both must outlive it unchanged.
engine::StepBatch BuildStepBatch(std::span<const SeatRows> seats);

}  // namespace tandem::scheduler
