// What KV blocks cost in a choice of formats: bytes of a block, of a token, of a sequence.
//
// Not here  how much memory blocks get (memory_plan.h), the bytes themselves (kvcache/).
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "kvcache/kv_formats.h"
#include "kvcache/layout.h"

namespace tandem::server {

// Where the rows of each group lie; none for a group that the model does not have.
using KvLayouts = std::array<std::optional<kvcache::GroupLayout>, engine::kNumKvGroups>;
//   errors  kInvalidArgument for protection that leaves no layer, or shapes that formats do not fit
absl::StatusOr<KvLayouts> KvLayoutsOf(const engine::ModelConfig& config,
                                      const kvcache::KvFormats& formats, int block_tokens);

struct KvFootprint {
  int block_tokens = 0;
  std::array<uint64_t, engine::kNumKvGroups> block_bytes = {};  // 0: the model has no such layers
  // Blocks of the sliding group that a sequence holds at most between two steps.
  int window_blocks = 0;

  // Everything that a block is made of, padding included.
  uint64_t bytes_per_token(engine::KvGroup group) const {
    return block_bytes[group] / block_tokens;
  }
  uint64_t window_bytes() const { return window_blocks * block_bytes[engine::kSliding]; }
};
KvFootprint FootprintOf(const engine::ModelConfig& config, const KvLayouts& layouts,
                        int block_tokens);

// Blocks that one sequence of `tokens` holds between two steps, by group.
std::array<int64_t, engine::kNumKvGroups> SequenceBlocks(const KvFootprint& footprint, int tokens);
uint64_t SequenceBytes(const KvFootprint& footprint, int tokens);

// Sliding blocks that a step needs on top: a chunk of a prompt is stored before the blocks behind
// its window are released.
int64_t StepBlocks(const KvFootprint& footprint, int max_step_rows, int max_slots);

// Sequences of `tokens` that fit at the same time, besides a step's blocks.
int64_t SequencesThatFit(const KvFootprint& footprint, uint64_t kv_bytes, int64_t step_blocks,
                         int tokens);

}  // namespace tandem::server
