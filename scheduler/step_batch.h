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
  int drafts = 0;  // the last so many feed Sequence::draft, from its begin on
  int guess = 0;   // tokens to guess behind what the segment draws; only when it draws
  std::vector<engine::BlockCopy> copies = {};  // made first
};

// What the engine runs: one segment per entry of `seats`, in order. Rows ask for
//   - the log-probability of the next prompt token, when the request wants it, for choice 0 and for
//     positions that were not sent before (RequestState::next_scored): params == null
//   - a token, in the row of the last known token and in every one behind it, when max_tokens > 0.
//     The row of a guess draws as if the guesses up to it had been drawn: position, penalties,
//     masked stops
// The batch points into the sequences and their requests; both must outlive it unchanged.
engine::StepBatch BuildStepBatch(std::span<const SeatRows> seats);

}  // namespace tandem::scheduler
