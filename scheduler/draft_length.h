// How many tokens to guess for whom: as many as make the whole batch faster, none when they would
// make it slower.
//
// Every sequence has an estimate for each place in a draft: how likely a guess there holds when all
// before it held. A further guess for a sequence is worth the product of its estimates up to there,
// in tokens; it costs a row of the next step and a slot of the drafter's chain, whose every step is
// shared by all drafts that long. The best guesses of all sequences are taken, as many of them as
// maximize
//
//   tokens / second = (sequences + sum of worths) / (T_step(rows) + sum over depths T_draft(slots))
//
// with the costs of cost_model.h, and none unless that beats plain decoding by 10 %, about
// as well as costs are known.
//
// Estimates start at what drafts of earlier sequences were worth when these were young, and forget
// a tenth with every trial. A sequence whose guesses do not pay is tried with one guess from time
// to time: after 32 rounds, then after pauses that double up to 512, never so often that trying
// costs more than about 1 %, and only while good guesses would pay; at once again when the guess
// held. When the prior itself is bad, new sequences begin without drafts and are tried after four
// rounds. Steps without and with drafts are tried as well where the other is chosen, seldom, so
// that costs that were measured wrongly are found out.
//
// Source    mtp.md 2.8 (policy), 6.2 (costs). Not here  what a client or a full pool allows
//           (plan_step.h), what steps cost (cost_model.h).
// Pure but for Observe: equal inputs give equal answers, so a plan can be replayed.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/cost_model.h"
#include "scheduler/request.h"

namespace tandem::scheduler {

// What the guesses for one sequence were worth. A new one knows nothing and stands at the prior.
struct DraftHistory {
  struct Place {
    float held = 0;    // of the trials: weighted mean
    float weight = 0;  // of all trials, the prior's included; 0: never tried
    bool operator==(const Place&) const = default;
  };
  std::array<Place, kMaxDraftTokens> places = {};  // by position in the draft
  int rounds = 0;                                  // that verified a draft
  int idle_rounds = 0;                             // without a draft since the last such round
  int pause_rounds = 4;  // how many of them before the next trial; 0: the last guess held
  bool operator==(const DraftHistory&) const = default;
};

// What the guesses for all sequences were worth in their first rounds: where a new one starts.
struct DraftPrior {
  std::array<float, kMaxDraftTokens> held = {0.7f, 0.6f, 0.5f, 0.4f, 0.3f, 0.3f, 0.3f, 0.3f,
                                             0.3f, 0.3f, 0.3f, 0.3f, 0.3f, 0.3f, 0.3f, 0.3f};
  std::array<int, kMaxDraftTokens> trials = {};  // up to a bound; 0: nobody came so far
  bool operator==(const DraftPrior&) const = default;
};

// Learns from one round of a sequence that may draft (not kOff). To be called after every such
// round, also one without a draft.
//   drafted   guesses that were verified. A draft that was asked for and came back empty counts as
//             one guess that did not hold; 0: there was none, or blocks and rows did not allow it
//   accepted  of these, guesses that held
void Observe(DraftHistory& history, DraftPrior& prior, int drafted, int accepted);

// A sequence that will run its newest token in the next step.
struct DraftWish {
  Speculation::Mode mode = Speculation::Mode::kAuto;
  int max_tokens = 0;  // after every cap: request, server, tokens and context left; 0: none
  int pending = 0;     // guesses that this step verifies, so that `history` does not know of them
  DraftHistory history;
};

// Why a sequence got its number of guesses.
enum class DraftReason {
  kNotAllowed,  // none: kOff, or max_tokens is 0
  kFixed,       // max_tokens: kFixed
  kPays,        // some: they make the batch faster
  kTrial,       // one, to see whether guesses hold by now; or as many as would pay or none, against
                // what costs advise, to see what these are by now
  kAcceptance,  // none: its own guesses hold too rarely
  kCost,        // none: even good guesses would not pay in this batch
  kUnmeasured,  // none: nothing is known yet about the cost of a step
};

// For reports: "acceptance".
constexpr const char* DraftReasonName(DraftReason reason) {
  switch (reason) {
    case DraftReason::kNotAllowed:
      return "not_allowed";
    case DraftReason::kFixed:
      return "fixed";
    case DraftReason::kPays:
      return "pays";
    case DraftReason::kTrial:
      return "trial";
    case DraftReason::kAcceptance:
      return "acceptance";
    case DraftReason::kCost:
      return "cost";
    case DraftReason::kUnmeasured:
      return "unmeasured";
  }
  return "unknown";
}

struct DraftChoice {
  std::vector<int> tokens;           // by wish, at most its max_tokens
  std::vector<DraftReason> reasons;  // by wish. One that turns from kPays to kAcceptance was
                                     // switched off (SchedulerStats::draft_auto_off_total)
  // Predicted for the batch, without and with what was chosen for kAuto; 0: unknown.
  double plain_tokens_per_s = 0;
  double drafted_tokens_per_s = 0;
  bool operator==(const DraftChoice&) const = default;
};

// Chooses for the drafts that this step makes and the next one verifies.
//   wishes  every sequence that is expected to decode in the next step, kOff included: its row
//           counts
//   step    number of this step: trials of several sequences wait for the same one
DraftChoice ChooseDraftLengths(std::span<const DraftWish> wishes, const DraftPrior& prior,
                               const CostModel& cost, int64_t step);

}  // namespace tandem::scheduler
