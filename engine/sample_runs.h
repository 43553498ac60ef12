// In which order the samples of a step are taken, and which of them drafts continue.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "engine/step.h"

namespace tandem::engine {

// Samples that are taken in order: those of a segment that is verified, each as long as the one
// before drew what the next row was fed. Any other sample is a run of its own.
struct SampleRun {
  int first = 0;
  int last = 0;      // behind the last
  int drawn = -1;    // the latest sample that was taken
  bool open = true;  // the next one is to be taken
};

struct SampleRuns {
  std::vector<SampleRun> runs;    // covering the samples in order
  std::vector<int> segment_runs;  // [segments] the run that draws in it; -1: none
  std::vector<int> draft_runs;    // by StepBatch::drafts
};

// Internal for samples or drafts that the batch's segments do not allow.
absl::Status FindRuns(const StepBatch& batch, SampleRuns& runs);

}  // namespace tandem::engine
