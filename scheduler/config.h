// What the scheduler may use: limits the operator sets, and limits the model and its pools set.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "engine/step.h"

namespace tandem::scheduler {

struct SchedulerConfig {
  int max_slots = 16;             // sequences that hold KV at a time; each may need a row of logits
  int max_step_rows = 512;        // rows in one step; sizes the engine's activations
  int max_queued_requests = 512;  // accepted, not started
  int64_t max_queued_tokens = 0;  // of their prompts, times their choices; 0: no limit
  int64_t max_queued_bytes = 0;   // of their messages; 0: no limit
  int max_queued_per_tenant = 0;  // requests; 0: no limit
  bool reject_hopeless = false;   // refuse what cannot start before its deadline (scheduler.h)
  int64_t step_target_us = 250'000;  // while anyone decodes, prompt chunks shrink to stay near it
  int min_chunk_rows = 8;            // ... but never below: a chunk's fixed cost must not dominate
  int64_t priority_point_us = 10'000'000;  // waiting that one point outweighs; 0: no priorities
  int64_t tenant_turn_us = 10'000'000;  // waiting that one turn of a tenant outweighs; 0: tenants
                                        // are not told apart (waiting_line.h)
  int max_preemptions = 64;  // of one sequence, for want of blocks; then its request fails with
                             // KV_EXHAUSTED
  int max_draft_tokens = 0;  // the longest draft, up to kMaxDraftTokens; 0: there is no drafter
  int step_log_size = 64;    // steps kept for replay, about 250 bytes each per sequence
  bool prefix_cache = true;  // KV blocks of one request may serve others (prefix_reuse.h)
  bool prefix_cache_per_tenant = false;  // ... of the same tenant only
};

// The model and the pools that were built for it.
struct ModelLimits {
  int vocab_size = 0;
  int max_context = 0;  // tokens of prompt and completion together
  int window = 0;       // of the sliding layers; unused without them
  int block_tokens = 32;
  std::array<int32_t, engine::kNumKvGroups> num_blocks = {};  // 0: the model has no such layers
  std::string kv_formats;  // what the bytes of a block depend on beside its tokens; enters the keys
                           // of blocks
};

// kInvalidArgument naming the field, its value and the bound.
absl::Status Validate(const SchedulerConfig& config, const ModelLimits& limits);

// The longest a single sequence can get, prompt and completion together: max_context, or less when
// even the empty pools hold less. A sequence that reaches it ends with kContextLength.
int MaxSequenceTokens(const ModelLimits& limits);

// Sliding blocks that a sequence can hold between two steps, and the fewest with which it can
// always run one more row: those that overlap `window` committed positions and the next one.
int32_t SlidingBlocksHeld(const ModelLimits& limits);

}  // namespace tandem::scheduler
