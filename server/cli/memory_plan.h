// How the memory is shared out before anything is allocated: weights, activations, KV blocks.
//
// Automatic KV size: room for max_slots sequences of max_context tokens (of 8192 where that is
// automatic too) and, when prefixes are kept, for as many that nobody runs any more; but at most
// 70 % of what weights and activations leave. The rest stays for the page cache and for whatever
// else runs. A KV group's blocks are taken from the system only when they are first used. On a
// device, which has no page cache, it is at most 90 %, all taken at start.
// Not here  what a block costs (kv_footprint.h); allocating (loaded_engine.h); who gets which block
// (scheduler/).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/assistant_config.h"
#include "engine/model_config.h"
#include "kernels/types.h"
#include "kvcache/kv_formats.h"
#include "server/cli/kv_footprint.h"
#include "server/cli/machine.h"
#include "server/config/settings.h"

namespace tandem::server {

// What is different where the model runs on a device.
struct DeviceRequest {
  size_t operand_bytes = 0;  // kernels::Ops::operand_bytes
  uint64_t own_bytes = 0;    // kernels::DeviceBackend::OwnBytes
};

struct MemoryRequest {
  int max_slots = 16;
  int max_context = 0;                           // 0: automatic
  std::string context_option = "--max-context";  // what a message calls it
  int max_step_rows = 512;
  int block_tokens = 32;
  kvcache::KvFormats kv_formats;
  MemoryAmount kv_memory;
  bool prefix_cache = false;  // blocks that nobody runs with stay useful
  bool ple_in_file = true;    // the per-layer table stays in its mapped file and needs no memory
  std::optional<engine::AssistantConfig> assistant;  // that guesses
  kernels::WeightFormat weights = kernels::WeightFormat::kBf16;
  std::optional<DeviceRequest> device;  // the per-layer table then stays with the host
};

struct MemoryPlan {
  uint64_t weight_bytes = 0;
  uint64_t ple_bytes = 0;         // of the per-layer table, when it is held in memory
  uint64_t activation_bytes = 0;  // logits included
  uint64_t drafter_bytes = 0;     // weights and scratch of the assistant
  uint64_t own_bytes = 0;         // of a device's kernels
  uint64_t kv_bytes = 0;          // of all blocks
  FreeMemory free;
  bool on_device = false;
  std::array<int32_t, engine::kNumKvGroups> num_blocks = {};
  KvFootprint kv;
  int max_slots = 0;    // as asked for
  int max_context = 0;  // what one sequence can have
  int sequences = 0;    // of typical_tokens each that fit at the same time, at most max_slots
  int typical_tokens = 0;

  uint64_t needed_bytes() const {
    return weight_bytes + ple_bytes + activation_bytes + drafter_bytes + own_bytes + kv_bytes;
  }
};

// Parameters of the text model, or of an assistant, as published: every stored tensor once.
uint64_t CountParameters(const engine::ModelConfig& config);
uint64_t CountParameters(const engine::AssistantConfig& config);

//   errors  kResourceExhausted with what is needed, what is free, what is missing and which option
//           to change; kInvalidArgument for a max_context above the model's limit, and those of
//           KvLayoutsOf
absl::StatusOr<MemoryPlan> PlanMemory(const engine::ModelConfig& config,
                                      const MemoryRequest& request, const FreeMemory& free);

// "weights 4.5 GiB + scratch 0.2 GiB + drafter 0.2 GiB + KV 0.9 GiB = 5.8 GiB of 22.1 GiB free"
std::string MemoryText(const MemoryPlan& plan);

}  // namespace tandem::server
