#include "server/cli/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "engine/assistant.h"
#include "engine/assistant_weights.h"
#include "engine/kv_layers.h"
#include "engine/runner.h"
#include "engine/weights.h"
#include "kvcache/block_table.h"
#include "kvcache/layout.h"
#include "scheduler/config.h"
#include "server/cli/format.h"

namespace tandem::server {
namespace {

using engine::kFull;
using engine::kSliding;
using engine::KvGroup;
using kvcache::BlocksFor;

constexpr int kTypicalTokens = 8192;       // planned for when max_context is automatic
constexpr int kFewestTokens = 512;         // an automatic max_context below this is no use
constexpr double kAutomaticShare = 0.7;    // of what weights and activations leave
constexpr uint64_t kReserve = 256u << 20;  // for code, buffers of connections, the tokenizer

std::string PartsText(const MemoryPlan& plan) {
  std::string text = "weights " + BytesText(plan.weight_bytes);
  if (plan.ple_bytes > 0) text += " + PLE table " + BytesText(plan.ple_bytes);
  text += " + scratch " + BytesText(plan.activation_bytes);
  if (plan.drafter_bytes > 0) text += " + drafter " + BytesText(plan.drafter_bytes);
  if (plan.kv_bytes > 0) text += " + KV " + BytesText(plan.kv_bytes);
  return text;
}

// Blocks that one sequence of `tokens` holds between two steps, per group.
struct SequenceBlocks {
  int64_t sliding = 0;
  int64_t full = 0;
};

SequenceBlocks BlocksOf(const engine::ModelConfig& config, int block_tokens, int tokens) {
  const scheduler::ModelLimits limits = {.window = config.sliding_window,
                                         .block_tokens = block_tokens};
  SequenceBlocks blocks;
  if (!config.KvOwners(kSliding).empty()) {
    blocks.sliding =
        std::min(scheduler::SlidingBlocksHeld(limits), BlocksFor(tokens, block_tokens));
  }
  if (!config.KvOwners(kFull).empty()) blocks.full = BlocksFor(tokens, block_tokens);
  return blocks;
}

absl::Status NotEnough(const MemoryPlan& plan, const std::string& what_to_do) {
  return absl::ResourceExhaustedError(absl::StrFormat(
      "not enough memory: %s are needed (%s), %s are free %s; %s", BytesText(plan.needed_bytes()),
      PartsText(plan), BytesText(plan.free.bytes), plan.free.limit, what_to_do));
}

// The ordering of a clustered head is no parameter.
uint64_t CountValues(const std::vector<engine::WeightItem>& items) {
  uint64_t values = 0;
  for (const engine::WeightItem& item : items) {
    if (item.kind != engine::WeightItem::Kind::kTokenIds) values += engine::NumElements(item);
  }
  return values;
}

}  // namespace

KvCost GroupKvCost(const engine::ModelConfig& config, KvGroup group, kernels::KvFormat format) {
  KvCost cost;
  for (const kvcache::LayerKv& layer : engine::KvLayers(config, group, format, format)) {
    cost.bytes_per_token +=
        uint64_t{2} * layer.num_kv_heads * kernels::KvRowBytes(format, layer.head_dim);
  }
  if (group == kSliding) cost.max_bytes_per_sequence = cost.bytes_per_token * config.sliding_window;
  return cost;
}

uint64_t CountParameters(const engine::ModelConfig& config) {
  engine::Weights weights;
  std::vector<engine::WeightItem> items;
  engine::LayOutWeights(config, nullptr, weights, items);
  return engine::PleTableBytes(config) / sizeof(kernels::Bf16) + CountValues(items);
}

uint64_t CountParameters(const engine::AssistantConfig& config) {
  engine::AssistantWeights weights;
  std::vector<engine::WeightItem> items;
  engine::LayOutAssistantWeights(config, nullptr, weights, items);
  return CountValues(items);
}

absl::StatusOr<MemoryPlan> PlanMemory(const engine::ModelConfig& config,
                                      const MemoryRequest& request, const FreeMemory& free) {
  if (request.max_context > config.max_positions) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is %d but the model was made for at most %d tokens",
                        request.context_option, request.max_context, config.max_positions));
  }
  MemoryPlan plan;
  plan.free = free;
  plan.max_slots = request.max_slots;
  plan.weight_bytes = engine::WeightBytes(config);
  plan.ple_bytes = request.ple_in_file ? 0 : engine::PleTableBytes(config);
  plan.activation_bytes =
      engine::Runner::ScratchBytes(config, {.max_step_rows = request.max_step_rows});
  if (request.assistant.has_value()) {
    plan.drafter_bytes =
        engine::AssistantWeightBytes(*request.assistant) +
        engine::Assistant::ScratchBytes(*request.assistant, {.max_slots = request.max_slots});
  }
  for (const KvGroup group : {kSliding, kFull}) {
    std::vector<kvcache::LayerKv> layers =
        engine::KvLayers(config, group, request.kv_format, request.kv_format);
    if (layers.empty()) continue;
    const auto layout = kvcache::MakeGroupLayout(request.block_tokens, std::move(layers));
    if (!layout.ok()) return layout.status();
    plan.block_bytes[group] = layout->block_bytes;
  }
  const auto bytes_of = [&](const SequenceBlocks& blocks) {
    return blocks.sliding * plan.block_bytes[kSliding] + blocks.full * plan.block_bytes[kFull];
  };

  const uint64_t fixed = plan.needed_bytes() + kReserve;
  if (fixed > free.bytes) {
    return NotEnough(plan, plan.activation_bytes > plan.weight_bytes / 4
                               ? "lower --max-step-rows, or free memory"
                               : "take a smaller model, raise the limit, or free memory");
  }
  const uint64_t left = free.bytes - fixed;

  // What max_slots sequences of a typical length want, and a step's rows on top: a chunk of a
  // prompt is stored before the blocks behind its window are released.
  plan.typical_tokens = request.max_context > 0 ? request.max_context
                                                : std::min(config.max_positions, kTypicalTokens);
  const SequenceBlocks typical = BlocksOf(config, request.block_tokens, plan.typical_tokens);
  const int64_t step_blocks = typical.sliding == 0
                                  ? 0
                                  : BlocksFor(request.max_step_rows, request.block_tokens) +
                                        std::min(request.max_slots, request.max_step_rows);
  const uint64_t step_bytes = step_blocks * plan.block_bytes[kSliding];
  const uint64_t wanted = request.max_slots * bytes_of(typical) + step_bytes;
  uint64_t budget = wanted;
  if (request.kv_memory.bytes > 0) {
    budget = request.kv_memory.bytes;
  } else if (request.kv_memory.share > 0) {
    budget = static_cast<uint64_t>(request.kv_memory.share * left);
  } else {
    budget = std::min(wanted, static_cast<uint64_t>(kAutomaticShare * left));
  }

  // Sliding blocks for as many seats as the budget has, full blocks for the rest of it.
  const uint64_t for_seats = budget - std::min(budget, step_bytes);
  const int64_t seats = std::clamp<int64_t>(for_seats / std::max<uint64_t>(1, bytes_of(typical)), 1,
                                            request.max_slots);
  const int64_t sliding_blocks = seats * typical.sliding + step_blocks;
  const uint64_t sliding_bytes = sliding_blocks * plan.block_bytes[kSliding];
  const int longest = request.max_context > 0 ? request.max_context : config.max_positions;
  int64_t full_blocks = 0;
  if (typical.full > 0) {
    full_blocks = (budget - std::min(budget, sliding_bytes)) / plan.block_bytes[kFull];
    full_blocks = std::min<int64_t>(
        full_blocks, int64_t{request.max_slots} * BlocksFor(longest, request.block_tokens));
  }
  plan.num_blocks = {static_cast<int32_t>(std::min<int64_t>(sliding_blocks, INT32_MAX)),
                     static_cast<int32_t>(std::min<int64_t>(full_blocks, INT32_MAX))};
  plan.kv_bytes = sliding_bytes + full_blocks * plan.block_bytes[kFull];
  plan.max_context = longest;
  if (typical.full > 0) {
    plan.max_context =
        static_cast<int>(std::min<int64_t>(longest, full_blocks * request.block_tokens));
  }

  const int least =
      request.max_context > 0 ? request.max_context : std::min(config.max_positions, kFewestTokens);
  if (plan.max_context < least || sliding_bytes > budget) {
    const uint64_t one = bytes_of(BlocksOf(config, request.block_tokens, least)) + step_bytes;
    const std::string lower_context =
        request.max_context > 0 ? request.context_option + " or " : std::string();
    const std::string raise_kv =
        request.kv_memory.automatic() ? ", or free memory" : ", or raise --kv-memory";
    return absl::ResourceExhaustedError(absl::StrFormat(
        "not enough memory for the KV cache: one sequence of %d tokens and steps of %d rows take "
        "%s, the cache gets %s of the %s that weights leave free %s; lower %s--max-step-rows%s",
        least, request.max_step_rows, BytesText(one), BytesText(budget), BytesText(left),
        free.limit, lower_context, raise_kv));
  }
  if (plan.needed_bytes() + kReserve > free.bytes) {
    return NotEnough(plan, "lower --kv-memory (auto fits itself to what is free)");
  }
  const uint64_t kv_left = plan.kv_bytes - std::min(plan.kv_bytes, step_bytes);
  plan.sequences = static_cast<int>(std::clamp<int64_t>(
      kv_left / std::max<uint64_t>(1, bytes_of(typical)), 1, request.max_slots));
  plan.typical_tokens = std::min(plan.typical_tokens, plan.max_context);
  return plan;
}

std::string MemoryText(const MemoryPlan& plan) {
  return absl::StrFormat("%s = %s of %s free", PartsText(plan), BytesText(plan.needed_bytes()),
                         BytesText(plan.free.bytes));
}

}  // namespace tandem::server
