// Which seated sequences hold the same blocks, and which blocks others would take: counted for the
// planner, not listed.
//
// Not here  what the counts are for (block_account.h).
// Threads   scheduler thread only.
#pragma once

#include <span>
#include <vector>

#include "scheduler/plan_step.h"
#include "scheduler/prefix_reuse.h"
#include "scheduler/sequence.h"

namespace tandem::scheduler {

// PlanInput::shared of sequences given in the order of their numbers, of which the first
// states.seated.size() have a seat. Takes time for every block that is held.
//   states  `seated` and `waiting` are filled, with reuse
std::vector<SharedBlocks> SharedBlocksOf(const PlanInput& states,
                                         std::span<Sequence* const> sequences,
                                         const KvPools& pools);

}  // namespace tandem::scheduler
