// What the engine answered for each segment of a step: which samples count.
//
// A segment with a draft draws in order, and its tokens count until (and with) the first that
// differs from the guess fed behind it. Samples behind that one were not drawn, or, from an engine
// that draws all rows at once, belong to a continuation that does not exist.
//
// Source    mtp.md 2.2 step 6, 2.3, 2.4 (scheme M: greedy and sampled tokens alike). Not here where
// a choice ends within the run (stop_rules.h), what is done with it (roster.h).
#pragma once

#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/step.h"

namespace tandem::scheduler {

// Views into a StepResult.
struct SegmentResult {
  std::span<engine::SampledToken> scores;  // of prompt tokens
  std::span<engine::SampledToken> drawn;   // that count: all but the last are guesses that held.
                                           // Only the last can be not finite
  engine::Draft* draft = nullptr;          // when one was asked for
  bool broken_rows = false;  // rows of it are not what they should be: nothing of it counts
};

// Whether the engine answered what it was asked: one token per sample, each one that counts inside
// the vocabulary where finite; drafts of at most the length asked for, of ids inside it; broken
// segments that exist, each once.
absl::Status CheckResult(const engine::StepBatch& batch, engine::StepResult& result,
                         int vocab_size);

// By segment. The numbers of tokens and drafts must be those of the batch.
std::vector<SegmentResult> ResultsBySegment(const engine::StepBatch& batch,
                                            engine::StepResult& result);

}  // namespace tandem::scheduler
