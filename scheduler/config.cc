#include "scheduler/config.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "scheduler/request.h"

namespace tandem::scheduler {
namespace {

absl::Status CheckRange(const char* field, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, "; it must be in ", min, "..", max));
}

}  // namespace

absl::Status Validate(const SchedulerConfig& config, const ModelLimits& limits) {
  constexpr int64_t kMaxRows = 1 << 20;
  constexpr int64_t kMaxUs = 1'000'000'000;
  const int64_t rows_besides = int64_t{config.max_slots} + config.min_chunk_rows;
  for (const absl::Status& status : {
           CheckRange("max_slots", config.max_slots, 1, 4096),
           CheckRange("min_chunk_rows", config.min_chunk_rows, 1, kMaxRows),
           CheckRange("max_step_rows", config.max_step_rows, rows_besides, kMaxRows),
           CheckRange("max_queued_requests", config.max_queued_requests, 1, 1 << 20),
           CheckRange("max_queued_tokens", config.max_queued_tokens, 0, INT64_MAX),
           CheckRange("max_queued_bytes", config.max_queued_bytes, 0, INT64_MAX),
           CheckRange("max_queued_per_tenant", config.max_queued_per_tenant, 0, 1 << 20),
           CheckRange("step_target_us", config.step_target_us, 1, kMaxUs),
           CheckRange("priority_point_us", config.priority_point_us, 0, kMaxUs),
           CheckRange("tenant_turn_us", config.tenant_turn_us, 0, kMaxUs),
           CheckRange("max_preemptions", config.max_preemptions, 0, 1 << 30),
           CheckRange("max_draft_tokens", config.max_draft_tokens, 0, kMaxDraftTokens),
           CheckRange("step_log_size", config.step_log_size, 0, 1 << 16),
           CheckRange("vocab_size", limits.vocab_size, 1, 1 << 30),
           CheckRange("max_context", limits.max_context, 2, 1 << 30),
           CheckRange("block_tokens", limits.block_tokens, 1, 1 << 16),
           CheckRange("sliding blocks", limits.num_blocks[engine::kSliding], 0, INT32_MAX),
           CheckRange("full blocks", limits.num_blocks[engine::kFull], 0, INT32_MAX),
           CheckRange("sliding and full blocks together",
                      int64_t{limits.num_blocks[0]} + limits.num_blocks[1], 1, INT64_MAX),
       }) {
    if (!status.ok()) return status;
  }
  if (limits.num_blocks[engine::kSliding] > 0) {
    return CheckRange("window", limits.window, 1, 1 << 30);
  }
  return absl::OkStatus();
}

int32_t SlidingBlocksHeld(const ModelLimits& limits) {
  // n consecutive positions overlap at most (n - 2) / P + 2 blocks of P; here n = window + 1.
  return (limits.window - 1) / limits.block_tokens + 2;
}

int MaxSequenceTokens(const ModelLimits& limits) {
  int64_t tokens = limits.max_context;
  const int32_t sliding = limits.num_blocks[engine::kSliding];
  const int32_t full = limits.num_blocks[engine::kFull];
  if (full > 0) tokens = std::min(tokens, int64_t{full} * limits.block_tokens);
  if (sliding > 0 && sliding < SlidingBlocksHeld(limits)) {
    tokens = std::min(tokens, int64_t{sliding} * limits.block_tokens);
  }
  return static_cast<int>(tokens);
}

}  // namespace tandem::scheduler
