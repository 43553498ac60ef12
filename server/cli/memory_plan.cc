#include "server/cli/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "engine/assistant.h"
#include "engine/assistant_weights.h"
#include "engine/runner.h"
#include "engine/weights.h"
#include "kvcache/block_table.h"
#include "server/cli/format.h"
#include "server/config/kv_setting.h"

namespace tandem::server {
namespace {

using engine::kFull;
using engine::kSliding;
using engine::KvGroup;
using kvcache::BlocksFor;

constexpr int kTypicalTokens = 8192;       // planned for when max_context is automatic
constexpr int kFewestTokens = 512;         // an automatic max_context below this is no use
constexpr double kAutomaticShare = 0.7;    // of what weights and activations leave
constexpr double kDeviceShare = 0.9;       // the same on a device
constexpr uint64_t kReserve = 256u << 20;  // for code, buffers of connections, the tokenizer; of a
                                           // device for code, lists of rows and recorded steps

std::string PartsText(const MemoryPlan& plan) {
  std::string text = "weights " + BytesText(plan.weight_bytes);
  if (plan.ple_bytes > 0) text += " + PLE table " + BytesText(plan.ple_bytes);
  text += " + scratch " + BytesText(plan.activation_bytes);
  if (plan.drafter_bytes > 0) text += " + drafter " + BytesText(plan.drafter_bytes);
  if (plan.own_bytes > 0) text += " + kernels " + BytesText(plan.own_bytes);
  if (plan.kv_bytes > 0) text += " + KV " + BytesText(plan.kv_bytes);
  return text;
}

absl::Status NotEnough(const MemoryPlan& plan, const std::string& what_to_do) {
  return absl::ResourceExhaustedError(absl::StrFormat(
      "not enough memory: %s are needed (%s), %s are free %s; %s", BytesText(plan.needed_bytes()),
      PartsText(plan), BytesText(plan.free.bytes), plan.free.limit, what_to_do));
}

// What the KV cache would need for one sequence, and what it gets.
struct KvShortage {
  uint64_t one = 0;
  uint64_t budget = 0;
  uint64_t left = 0;  // behind weights and activations
  int tokens = 0;     // of that sequence
};

absl::Status KvTooSmall(const MemoryRequest& request, const KvShortage& shortage,
                        const std::string& limit) {
  const std::string lower_context =
      request.max_context > 0 ? request.context_option + " or " : std::string();
  const char* const raise_kv =
      request.kv_memory.automatic() ? ", or free memory" : ", or raise --kv-memory";
  return absl::ResourceExhaustedError(absl::StrFormat(
      "not enough memory for the KV cache: one sequence of %d tokens and steps of %d rows take "
      "%s in %s, the cache gets %s of the %s that weights leave free %s: %s missing; lower "
      "%s--max-step-rows, take a smaller --kv-type%s",
      shortage.tokens, request.max_step_rows, BytesText(shortage.one), KvText(request.kv_formats),
      BytesText(shortage.budget), BytesText(shortage.left), limit,
      BytesText(shortage.one - shortage.budget), lower_context, raise_kv));
}

// Shares `left` bytes out to the blocks of both groups.
absl::Status PlanKv(const engine::ModelConfig& config, const MemoryRequest& request, uint64_t left,
                    MemoryPlan& plan) {
  // Places for sequences of a typical length: one for each slot, and for each a prefix that nobody
  // runs any more. What is given is used as far as there is a use for it.
  plan.typical_tokens = request.max_context > 0 ? request.max_context
                                                : std::min(config.max_positions, kTypicalTokens);
  const int64_t wanted_places =
      request.prefix_cache ? int64_t{2} * request.max_slots : request.max_slots;
  const auto typical = SequenceBlocks(plan.kv, plan.typical_tokens);
  const uint64_t place_bytes = std::max<uint64_t>(1, SequenceBytes(plan.kv, plan.typical_tokens));
  const int64_t step_blocks = StepBlocks(plan.kv, request.max_step_rows, request.max_slots);
  const uint64_t step_bytes = step_blocks * plan.kv.block_bytes[kSliding];
  uint64_t budget = 0;
  if (request.kv_memory.bytes > 0) {
    budget = request.kv_memory.bytes;
  } else if (request.kv_memory.share > 0) {
    budget = static_cast<uint64_t>(request.kv_memory.share * left);
  } else {
    budget =
        std::min(wanted_places * place_bytes + step_bytes,
                 static_cast<uint64_t>((plan.on_device ? kDeviceShare : kAutomaticShare) * left));
  }
  const bool use_all = request.prefix_cache && !request.kv_memory.automatic();
  const int64_t most_places = use_all ? INT32_MAX : wanted_places;

  // One sequence of the least context must fit, with a whole window of sliding blocks.
  const int least =
      request.max_context > 0 ? request.max_context : std::min(config.max_positions, kFewestTokens);
  const uint64_t one = typical[kSliding] * plan.kv.block_bytes[kSliding] +
                       SequenceBlocks(plan.kv, least)[kFull] * plan.kv.block_bytes[kFull] +
                       step_bytes;
  if (budget < one) {
    return KvTooSmall(request, {.one = one, .budget = budget, .left = left, .tokens = least},
                      plan.free.limit);
  }

  // Sliding blocks for as many places as the budget has, full blocks for the rest of it.
  const int64_t places = std::clamp<int64_t>((budget - step_bytes) / place_bytes, 1, most_places);
  plan.num_blocks[kSliding] =
      static_cast<int32_t>(std::min<int64_t>(places * typical[kSliding] + step_blocks, INT32_MAX));
  const int longest = request.max_context > 0 ? request.max_context : config.max_positions;
  plan.max_context = longest;
  if (typical[kFull] > 0) {
    const uint64_t sliding_bytes = plan.num_blocks[kSliding] * plan.kv.block_bytes[kSliding];
    const int64_t most = most_places * BlocksFor(longest, request.block_tokens);
    const int64_t blocks = std::min<int64_t>(
        {static_cast<int64_t>((budget - sliding_bytes) / plan.kv.block_bytes[kFull]), most,
         INT32_MAX});
    plan.num_blocks[kFull] = static_cast<int32_t>(blocks);
    plan.max_context = static_cast<int>(std::min<int64_t>(longest, blocks * request.block_tokens));
  }
  for (const KvGroup group : {kSliding, kFull}) {
    plan.kv_bytes += plan.num_blocks[group] * plan.kv.block_bytes[group];
  }
  plan.sequences = static_cast<int>(std::clamp<int64_t>(
      SequencesThatFit(plan.kv, plan.kv_bytes, step_blocks, plan.typical_tokens), 1,
      request.max_slots));
  plan.typical_tokens = std::min(plan.typical_tokens, plan.max_context);
  return absl::OkStatus();
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
  plan.weight_bytes = engine::WeightBytes(config, request.weights);
  plan.on_device = request.device.has_value();
  plan.own_bytes = plan.on_device ? request.device->own_bytes : 0;
  plan.ple_bytes = plan.on_device || request.ple_in_file ? 0 : engine::PleTableBytes(config);
  const size_t operand_bytes = plan.on_device ? request.device->operand_bytes : sizeof(float);
  plan.activation_bytes =
      engine::Runner::ScratchBytes(config, {.max_step_rows = request.max_step_rows}, operand_bytes);
  if (request.assistant.has_value()) {
    plan.drafter_bytes = engine::AssistantWeightBytes(*request.assistant, request.weights) +
                         engine::Assistant::ScratchBytes(
                             *request.assistant, {.max_slots = request.max_slots}, operand_bytes);
  }
  const absl::StatusOr<KvLayouts> layouts =
      KvLayoutsOf(config, request.kv_formats, request.block_tokens);
  if (!layouts.ok()) return layouts.status();
  plan.kv = FootprintOf(config, *layouts, request.block_tokens);

  const uint64_t fixed = plan.needed_bytes() + kReserve;
  if (fixed > free.bytes) {
    const std::string make_room = plan.on_device
                                      ? "end other processes on the device, or use --device cpu"
                                      : "raise the limit, or free memory";
    if (plan.activation_bytes > plan.weight_bytes / 4) {
      return NotEnough(plan, "lower --max-step-rows, or " +
                                 (plan.on_device ? make_room : std::string("free memory")));
    }
    return NotEnough(plan, request.weights == kernels::WeightFormat::kInt4
                               ? "take a smaller model, " + make_room
                               : "take a smaller model or --weights int4, " + make_room);
  }
  const uint64_t left = free.bytes - fixed;

  if (absl::Status kv = PlanKv(config, request, left, plan); !kv.ok()) return kv;
  if (plan.needed_bytes() + kReserve > free.bytes) {
    return NotEnough(plan, "lower --kv-memory (auto fits itself to what is free)");
  }
  return plan;
}

std::string MemoryText(const MemoryPlan& plan) {
  return absl::StrFormat("%s = %s of %s free%s", PartsText(plan), BytesText(plan.needed_bytes()),
                         BytesText(plan.free.bytes), plan.on_device ? " " + plan.free.limit : "");
}

}  // namespace tandem::server
