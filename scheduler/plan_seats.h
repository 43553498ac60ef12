// Who gets a seat in a step, and who makes room for it.
//
// Not here  what the rules promise (plan_step.h); who of them gets rows (plan_step.cc).
#pragma once

#include <vector>

#include "scheduler/block_account.h"
#include "scheduler/plan_step.h"

namespace tandem::scheduler {

// Who may take part in a step.
struct SeatCandidate {
  int seq = 0;
  bool must_seat = false;  // others made room for it
};

struct SeatChoice {
  std::vector<SeatCandidate> candidates;  // waiting ones that can be seated, then who stays seated
  std::vector<int> make_room;             // seqs, paused or swapped out
};
SeatChoice ChooseSeats(const PlanInput& in, const Sharing& sharing);

}  // namespace tandem::scheduler
