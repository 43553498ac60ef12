// The rows of a step that go through the target together, and where each KV group's attention finds
// what they see.
//
// In        a step batch. A backend that runs given and generated tokens in different kernels gets
//           them one class after the other.
// Out       arrays of the host that a backend stages (kernels::RowsArgs).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "engine/model_config.h"
#include "engine/step.h"
#include "kernels/ops.h"

namespace tandem::engine {

enum class RowClass { kAll, kPrompt, kGenerated };

struct StepRows {
  struct Group {
    std::vector<int32_t> cells;       // [rows] where the row's own K/V go
    std::vector<int32_t> begin, end;  // [rows] visible positions
    std::vector<kernels::AttentionSegment> segments;
  };
  std::vector<int> batch_rows;  // [rows] the row of the step batch, ascending
  std::vector<int32_t> ids, positions;
  std::array<Group, kNumKvGroups> groups;

  int size() const { return static_cast<int>(batch_rows.size()); }
};

// Tokens of a block of each group; 0: the model has no such layer.
using BlockTokens = std::array<int, kNumKvGroups>;

// Internal unless the segments cover the rows in order, and every row has a block in each group.
absl::Status CheckSegments(const StepBatch& batch, const BlockTokens& block_tokens);

// The rows of a class, of a batch that CheckSegments allows.
void FindRows(const StepBatch& batch, RowClass row_class, int window,
              const BlockTokens& block_tokens, StepRows& rows);

// Leaves only the rows with these indices, ascending.
void KeepRows(const std::vector<int>& keep, StepRows& rows);

// A group of layers that read K and V in the same way: one shape of heads.
struct HeadCounts {
  int q = 0;
  int kv = 0;
};
// Of the layers of each group. Unimplemented, naming the layer, where two layers of a group differ.
absl::Status FindHeadCounts(const std::vector<LayerDesc>& layers,
                            std::array<HeadCounts, kNumKvGroups>& heads);

// What `stage` needs of the rows; points into them.
kernels::RowsArgs RowsToStage(const StepRows& rows, const BlockTokens& block_tokens,
                              const std::array<HeadCounts, kNumKvGroups>& heads);

}  // namespace tandem::engine
