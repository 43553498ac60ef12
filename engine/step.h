// One step of the engine as data: flat arrays in, sampled tokens out.
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

// A run of consecutive rows of one sequence: a decode row, or a chunk of its prompt.
struct Segment {
  int row_begin = 0;
  int num_rows = 0;
  // Block id of position p at [p / block_tokens], per group; -1 where released. They cover every
  // position of the segment's rows. Empty for a group the model does not have.
  std::array<std::span<const int32_t>, kNumKvGroups> block_table;
};

struct StepBatch {
  std::vector<int32_t> ids;            // [rows] token fed
  std::vector<int32_t> positions;      // [rows] ascending and consecutive within a segment
  std::vector<Segment> segments;       // in row order, covering all rows
  std::vector<SampleRequest> samples;  // ascending by row; a row may occur more than once
};

struct StepResult {
  std::vector<SampledToken> tokens;  // one per StepBatch::samples
};

// Runs one step. A status that is not OK means the device is lost; no sequence can go on.
using RunStep = std::function<absl::Status(const StepBatch& batch, StepResult& result)>;

}  // namespace tandem::engine
