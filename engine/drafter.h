// Who guesses: the one interface between the round and whatever proposes tokens.
//
// Called once a step, after sampling, with every sequence that wants a draft. A proposer keeps
// nothing between calls: all it may know of a sequence is in its slot, so preemption, rollback and
// the reuse of a seat cannot leave anything stale behind.
//
// Source    mtp.md 3.3, 3.4, 1.9 (the handoff state). Not here  how many tokens (scheduler/), how a
// draft is verified (runner.h).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>

#include "engine/sampling.h"
#include "engine/step.h"

namespace tandem::engine {

// A sequence whose newest token was drawn in this step. That token's own row is not in the cache.
struct DraftSlot {
  int32_t token = 0;     // the newest
  int32_t position = 0;  // of `token`; committed rows are [0, position)
  std::span<const std::byte>
      handoff;  // [H] operands (kernels/ops.h): the target's row at position - 1
                // after the final norm, the one that `token` was drawn from
  std::array<std::span<const int32_t>, kNumKvGroups> block_table;  // as in Segment
  int max_tokens = 0;                                              // wanted, at least 1
  // How the target will draw the token behind `token`: params, choice, position (= this position
  // + 1), penalties' counts; `drafted` and `row` are not set. The same noise for a guess makes it
  // agree more often (mtp.md 2.4, M-coupled).
  SampleRequest next;
  // All ids, in order: prompt, output before this step, and what this step drew, `token` last.
  std::span<const int32_t> prompt, output, drawn;
};

// Fills drafts[i] for slots[i], at most max_tokens ids, each inside the vocabulary. Drafts decide
// how fast text comes, never what it says, so a proposer may answer anything, also nothing.
//   returns  forwards that it ran
using Propose = std::function<int(std::span<const DraftSlot> slots, std::span<Draft> drafts)>;

}  // namespace tandem::engine
