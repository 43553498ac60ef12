#include "server/cli/kv_footprint.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/kv_layers.h"
#include "kvcache/block_table.h"
#include "scheduler/config.h"

namespace tandem::server {

using engine::kFull;
using engine::kSliding;
using engine::KvGroup;
using kvcache::BlocksFor;

absl::StatusOr<KvLayouts> KvLayoutsOf(const engine::ModelConfig& config,
                                      const kvcache::KvFormats& formats, int block_tokens) {
  KvLayouts layouts;
  for (const KvGroup group : {kSliding, kFull}) {
    absl::StatusOr<std::vector<kvcache::LayerKv>> layers = engine::KvLayers(config, group, formats);
    if (!layers.ok()) {
      return absl::Status(
          layers.status().code(),
          absl::StrCat("--kv-protect-first and --kv-protect-last: ", layers.status().message()));
    }
    if (layers->empty()) continue;
    absl::StatusOr<kvcache::GroupLayout> layout = kvcache::MakeGroupLayout(
        block_tokens, *std::move(layers), group == kFull ? "full layers" : "sliding layers");
    if (!layout.ok()) return layout.status();
    layouts[group] = *std::move(layout);
  }
  return layouts;
}

KvFootprint FootprintOf(const engine::ModelConfig& config, const KvLayouts& layouts,
                        int block_tokens) {
  KvFootprint footprint = {.block_tokens = block_tokens};
  for (const KvGroup group : {kSliding, kFull}) {
    if (layouts[group].has_value()) footprint.block_bytes[group] = layouts[group]->block_bytes;
  }
  if (layouts[kSliding].has_value()) {
    footprint.window_blocks = scheduler::SlidingBlocksHeld(
        {.window = config.sliding_window, .block_tokens = block_tokens});
  }
  return footprint;
}

std::array<int64_t, engine::kNumKvGroups> SequenceBlocks(const KvFootprint& footprint, int tokens) {
  const int64_t covering = BlocksFor(tokens, footprint.block_tokens);
  std::array<int64_t, engine::kNumKvGroups> blocks = {};
  blocks[kSliding] = std::min<int64_t>(footprint.window_blocks, covering);
  blocks[kFull] = footprint.block_bytes[kFull] > 0 ? covering : 0;
  return blocks;
}

uint64_t SequenceBytes(const KvFootprint& footprint, int tokens) {
  const auto blocks = SequenceBlocks(footprint, tokens);
  return blocks[kSliding] * footprint.block_bytes[kSliding] +
         blocks[kFull] * footprint.block_bytes[kFull];
}

int64_t StepBlocks(const KvFootprint& footprint, int max_step_rows, int max_slots) {
  if (footprint.window_blocks == 0) return 0;
  return BlocksFor(max_step_rows, footprint.block_tokens) + std::min(max_slots, max_step_rows);
}

int64_t SequencesThatFit(const KvFootprint& footprint, uint64_t kv_bytes, int64_t step_blocks,
                         int tokens) {
  const uint64_t step_bytes = step_blocks * footprint.block_bytes[kSliding];
  const uint64_t one = std::max<uint64_t>(1, SequenceBytes(footprint, tokens));
  return static_cast<int64_t>((kv_bytes - std::min(kv_bytes, step_bytes)) / one);
}

}  // namespace tandem::server
