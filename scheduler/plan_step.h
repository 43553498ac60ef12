// Who runs in the next step, with how many rows, and who must give its blocks or its seat back; and
// how many tokens are guessed at its end, for the step after it.
//
// A pure function of plain states: no clock, no device, no pool. What it was given can be recorded
// and replayed to the same plan.
//
// Rows that others have computed need not run again: a sequence takes references on their blocks
// first (SeqState::reuse), or a copy of the one block that is not full. What it does not have to
// compute counts neither as rows nor as blocks, but for those that nobody holds any more. A prompt
// whose next block an earlier one of the order computes in this very step gets no rows: it keeps
// its seat and takes the block when it is there.
//
// Every sequence has a rank that never changes (see Rank). Seats go to the waiting in their order
// of service (waiting_line.h); nobody is skipped but for want of rows. Among the seated the order
// is by turn, then by rank, where the turn of a sequence is the number of seats that its tenant
// holds for better ranks: so it begins with each tenant's best and ends with the tenant that has
// most. Blocks are taken from the end of it, and prompt rows are dealt out among tenants equally.
// Paused sequences stand behind everybody. With one tenant, or none told apart, all of this is the
// order of ranks.
//
// Guesses come last. Every decoding sequence has its one row first; then guesses get rows, the
// longest drafts being shortened when these are short, but min_chunk_rows stay for prompts; then
// come prompt chunks. A guess takes a block only when one is free after all that, and gives it back
// at the end of the step unless it held. So who is seated, preempted or swapped is decided from
// known tokens alone, and whoever would have a row without guesses has one, but for prompts beyond
// the first min_chunk_rows of them.
//
// A swap is how tenants come to equal shares of the seats: when the first in the queue finds no
// room, and another tenant holds at least two seats more than its own, the worst-ranked of the
// tenant with most seats makes room. Every swap lowers the sum of the squares of the tenants'
// seats, so there are only finitely many between two arrivals or ends.
//
// Nobody starves, unless its client lets it pause:
//   - Consider the best-ranked of the seated. Its turn is 0 and it is the first in the order, so it
//     always gets a row, and blocks for it, since everybody else can be preempted for them; a
//     sequence that outgrows the empty pools is refused or ends (MaxSequenceTokens). Blocks that
//     others share are free when the last of these is gone, which is counted (BlockAccount); blocks
//     that it could reuse but that do not fit beside its own it computes itself. It waits for
//     nobody's rows, since those that it could wait for come before it in the order. No swap takes
//     it, for it is the best of its tenant. So it ends, unless better-ranked ones keep coming, and
//     seats keep getting free.
//   - Who waits for another's block is no worse off: that one has a row in this step, the block is
//     full after finitely many of them, and when its owner gets no row, pauses, loses its seat or
//     ends, the first of those who wait computes it instead.
//   - Consider the best-ranked of all, B. While it waits only finitely many others can ever be
//     served before it: its own key grows by no more than max_slots turns, and those who come late
//     enough have greater ones. Free seats go to these and to B only, and by the above the
//     best-ranked of them ends, over and over until none is left. So B is seated, and ends.
//   - Only finitely many requests can ever have a better rank than a given one: priority buys a
//     fixed head start. They all end, one after the other, and then it is B itself.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/step.h"
#include "scheduler/config.h"
#include "scheduler/cost_model.h"
#include "scheduler/draft_length.h"
#include "scheduler/request.h"

namespace tandem::scheduler {

constexpr int kMaxSwaps = 2;  // sequences that others make room for, in one step

// Who came first: by arrival, where every point of priority counts as an arrival
// `priority_point_us` earlier; then by submission, then by choice. Smaller is better.
struct Rank {
  int64_t key_us = 0;
  RequestId request = 0;
  int choice = 0;
  auto operator<=>(const Rank&) const = default;
};
Rank RankOf(const SchedulerConfig& config, const Request& request, RequestId id, int choice);

struct GroupBlocks {
  int table = 0;  // entries of the block table, released ones included
  int held = 0;   // blocks held, by others too or not
};

// Rows of a sequence that are there already, because others had the same tokens.
struct Reuse {
  int tokens = 0;     // rows below are had for references on full blocks; 0, or a multiple of
                      // block_tokens above kv_tokens
  int copied_to = 0;  // rows below are had with a copy of one block more; 0: there is none
  int copy_seq = -1;  // whose, a seated sequence
  bool operator==(const Reuse&) const = default;
};

// Blocks of one group that the same sequences hold and the same sequences would take. None is left
// out that two hold, or that one would take.
struct SharedBlocks {
  int group = 0;
  int blocks = 0;
  std::vector<int> holders;  // seqs; none: the blocks are cached, and count as free
  std::vector<int> takers;   // seqs whose Reuse::tokens needs them
};

// One sequence, as far as planning needs it.
struct SeqState {
  Rank rank;
  int tenant = 0;       // a number from 0 on, below that of sequences; the same for the same tenant
  bool paused = false;  // only seated ones: its client does not read, so no row runs
  int prompt_tokens = 0;
  int known_tokens = 0;  // prompt and what was generated
  int kv_tokens = 0;     // rows in the cache, below known_tokens; 0 after a preemption
  std::array<GroupBlocks, engine::kNumKvGroups> blocks;
  Reuse reuse;
  // Which block it computes next, taken that it reuses what it can: equal numbers for equal blocks.
  int computes = -1;  // -1: none that others could use
  int awaits = -1;    // -1: no use to wait until somebody has computed it
  int drafts = 0;     // guesses at hand for what follows the newest token; 0 unless decoding
  // For the step after this one, if this one draws a token; none when that is surely the last one.
  // PlanStep sets `pending`.
  std::optional<DraftWish> wish;

  // Past its prompt and with one row to run; anything else runs in chunks.
  bool decoding() const { return kv_tokens >= prompt_tokens && known_tokens - kv_tokens == 1; }
};

struct PlanInput {
  SchedulerConfig config;
  ModelLimits limits;
  CostModel cost;
  DraftPrior draft_prior;
  int64_t step = 0;  // its number
  std::array<int32_t, engine::kNumKvGroups> free_blocks = {};
  std::vector<SeqState> seated;   // by rank
  std::vector<SeqState> waiting;  // in the order of service; more than seats that are free, paused
                                  // or could be swapped need not be given
  std::vector<SharedBlocks> shared;
};

// Rows of one sequence. `seq` counts through seated, then on through waiting.
struct SeqRows {
  int seq = 0;
  int first_position = 0;
  int rows = 0;
  int drafts = 0;                                 // the last so many are guesses
  int guess = 0;                                  // tokens to guess behind what the step draws
  DraftReason reason = DraftReason::kNotAllowed;  // of `guess`
  bool operator==(const SeqRows&) const = default;
};

// What a sequence takes over; its rows begin behind.
struct SeqReuse {
  int seq = 0;
  Reuse reuse;  // as offered; copied_to is 0 when no copy is made
  bool operator==(const SeqReuse&) const = default;
};

struct StepPlan {
  std::vector<SeqRows> decode;   // the newest token and guesses behind it
  std::vector<SeqRows> prefill;  // chunks
  std::vector<SeqReuse> reuse;   // before anything is freed. Copies read blocks of sequences that
                                 // keep their seat
  // Seated sequences whose blocks are to be freed first.
  std::vector<int> preempt;      // seqs, for want of blocks
  std::vector<int> make_room;    // seqs, paused or swapped out
  std::vector<int> admit;        // seqs of waiting sequences that are seated
  bool prompts_limited = false;  // seated prompts could have run more rows than the step had
  // Predicted for the next step, as in DraftChoice; 0: unknown.
  double plain_tokens_per_s = 0;
  double drafted_tokens_per_s = 0;
  bool operator==(const StepPlan&) const = default;
};

// Plans one step.
//   decode   every decoding sequence, unless it finds no block and nobody behind it to take one
//            from: then it waits in its seat. Its guesses as far as rows and blocks are left
//   prefill  rows left over go to prompts; while anyone decodes, no more of them than keep the step
//            near config.step_target_us by the cost model
//   guess    as ChooseDraftLengths says, for every sequence that draws a token in this step; fewer,
//            the longest first, when the next step would not have rows for all. Without a drafter
//            (config.max_draft_tokens is 0) nothing is guessed
//   reuse    for everybody who gets rows or waits for another's, as far as blocks are free; a copy
//            only of a block whose owner comes before it in the order
//   admit    sequences for which a slot and the blocks of all their known tokens are free, beside
//            what the seated ones still need for theirs and a block for each to grow
// With a waiting or an unpaused seated sequence, and states as the scheduler keeps them, some row
// runs.
StepPlan PlanStep(const PlanInput& input);

}  // namespace tandem::scheduler
