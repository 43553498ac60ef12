// What counts of drafts say, for reports, metrics and status lines.
//
// Source    mtp.md 6.4 (definitions). Not here  counting what the scheduler's rounds did
// (roster.h).
#pragma once

#include "scheduler/request.h"

namespace tandem::scheduler {

// One round that verified `drafted` guesses, of which the first `accepted` held.
inline void Count(DraftCounts& counts, int drafted, int accepted) {
  ++counts.rounds;
  if (drafted > 0) ++counts.rounds_with_draft;
  counts.drafted += drafted;
  counts.accepted += accepted;
  for (int i = 0; i < drafted; ++i) ++counts.drafted_at[i];
  for (int i = 0; i < accepted; ++i) ++counts.accepted_at[i];
}

// What came between two snapshots.
inline DraftCounts Between(const DraftCounts& before, const DraftCounts& now) {
  DraftCounts counts = now;
  counts.rounds -= before.rounds;
  counts.rounds_with_draft -= before.rounds_with_draft;
  counts.drafted -= before.drafted;
  counts.accepted -= before.accepted;
  counts.discarded -= before.discarded;
  counts.failed -= before.failed;
  for (int i = 0; i < kMaxDraftTokens; ++i) {
    counts.drafted_at[i] -= before.drafted_at[i];
    counts.accepted_at[i] -= before.accepted_at[i];
  }
  return counts;
}

inline double DraftRatio(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

// Accepted of drafted; 0 without drafts.
inline double AcceptanceRate(const DraftCounts& counts) {
  return DraftRatio(counts.accepted, counts.drafted);
}
// The same at one position of the draft, of the guesses that were verified there.
inline double AcceptanceAt(const DraftCounts& counts, int position) {
  return DraftRatio(counts.accepted_at[position], counts.drafted_at[position]);
}
// Mean tokens of a round that verified a draft, its bonus token included; 0 without drafts.
inline double TokensPerDraft(const DraftCounts& counts) {
  return counts.rounds_with_draft > 0 ? 1.0 + DraftRatio(counts.accepted, counts.rounds_with_draft)
                                      : 0.0;
}
// Mean tokens of a round, with or without a draft; 0 without rounds.
inline double TokensPerRound(const DraftCounts& counts) {
  return counts.rounds > 0 ? 1.0 + DraftRatio(counts.accepted, counts.rounds) : 0.0;
}

// How many positions of a draft were ever verified.
inline int DraftedPositions(const DraftCounts& counts) {
  int positions = kMaxDraftTokens;
  while (positions > 0 && counts.drafted_at[positions - 1] == 0) --positions;
  return positions;
}

}  // namespace tandem::scheduler
