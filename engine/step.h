// One step of the engine as data: flat arrays in, sampled tokens and fresh drafts out.
//
// In a step the target runs all rows in one forward. A segment whose last rows feed a draft is
// verified there: its rows draw their tokens in order, until one differs from the id that the next
// row was fed. Then the proposer guesses on, from what each asking segment drew last
// (mtp.md 2.2, 3.1). Nothing of a step stays in the engine but K/V rows; which of them count is the
// scheduler's to know.
//
// The scheduler fills a StepBatch, the runner turns it into a StepResult; a simulated device can
// stand in for the runner, since nothing else crosses.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/sampling.h"

namespace tandem::engine {

// The two KV groups. Sliding layers see a window, full layers everything.
enum KvGroup : int { kSliding = 0, kFull = 1 };
constexpr int kNumKvGroups = 2;

// A run of consecutive rows of one sequence: a chunk of its prompt, or the row of its last token
// and of the draft behind it.
struct Segment {
  int row_begin = 0;
  int num_rows = 0;
  int num_prompt_rows =
      0;  // the first so many rows feed given ids: a backend may run them in other
          // kernels than generated ones, so that it is no matter of load which
  // The last so many rows feed drafted ids, below num_rows. Then every row from the one before them
  // on has one sample with params, and these come in order.
  int num_drafts = 0;
  // Block id of position p at [p / block_tokens], per group; -1 where released. They cover every
  // position of the segment's rows. Empty for a group the model does not have.
  std::array<std::span<const int32_t>, kNumKvGroups> block_table;
};

// Asks for a draft behind the token that a segment draws, one that has such a sample.
struct DraftRequest {
  int segment = 0;
  int max_tokens = 0;  // at least 1
  // The sequence before this step, for proposers that look there. Together they hold every id up
  // to the segment's row that is not drafted.
  std::span<const int32_t> prompt;
  std::span<const int32_t> output;
};

// Copies a whole block, before any row of the step is written.
struct BlockCopy {
  KvGroup group = kSliding;
  int32_t from = 0;
  int32_t to = 0;
};

struct StepBatch {
  std::vector<int32_t> ids;            // [rows] token fed
  std::vector<int32_t> positions;      // [rows] ascending and consecutive within a segment
  std::vector<Segment> segments;       // in row order, covering all rows
  std::vector<SampleRequest> samples;  // ascending by row; a row may occur more than once
  std::vector<DraftRequest> drafts;    // ascending by segment, each at most once
  std::vector<BlockCopy> copies;       // done first, in order
};

// Ids guessed to follow a token that was just drawn.
struct Draft {
  std::vector<int32_t> ids;  // at most what was asked for
  bool finite = true;        // false: it ended early because a NaN or infinity turned up
};

struct StepResult {
  std::vector<SampledToken> tokens;  // one per StepBatch::samples; behind a draft that did not hold
                                     // nothing is drawn: id -1, finite
  std::vector<Draft> drafts;         // one per StepBatch::drafts; empty ones without a proposer
  // Ascending: some K or V row of the segment was not finite and is stored as zeros, so nobody may
  // read it. Rows behind a guess that did not hold are not meant: they are written again.
  std::vector<int> broken_segments;
  int draft_steps = 0;   // forwards of the drafter
  int64_t draft_us = 0;  // of the step's time, what drafting took
};

// Runs one step. A status that is not OK means the device is lost; no sequence can go on.
using RunStep = std::function<absl::Status(const StepBatch& batch, StepResult& result)>;

}  // namespace tandem::engine
