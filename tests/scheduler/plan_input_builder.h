// Plain states of sequences for PlanStep, one short call each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ostream>

#include "scheduler/plan_step.h"

namespace tandem::scheduler {

// For readable failures.
inline void PrintTo(const SeqRows& rows, std::ostream* out) {
  *out << "{seq " << rows.seq << ", first " << rows.first_position << ", rows " << rows.rows
       << ", drafts " << rows.drafts << ", guess " << rows.guess << "}";
}

inline constexpr int kBlockTokens = 16;

// A model with full layers only, 8 slots, 100 free blocks and 64 rows a step, 8 at least beside
// decoders. Sequences are given the rank of their place.
struct PlanInputBuilder {
  PlanInput input;

  PlanInputBuilder() {
    input.config = {.max_slots = 8, .max_step_rows = 64, .min_chunk_rows = 8};
    input.limits = {.vocab_size = 100,
                    .max_context = 10'000,
                    .window = 32,
                    .block_tokens = kBlockTokens,
                    .num_blocks = {0, 100}};
    input.free_blocks = {0, 100};
  }

  SeqState State(int prompt_tokens, int known_tokens, int kv_tokens) const {
    SeqState state;
    state.prompt_tokens = prompt_tokens;
    state.known_tokens = known_tokens;
    state.kv_tokens = kv_tokens;
    const int blocks = (kv_tokens + kBlockTokens - 1) / kBlockTokens;
    if (input.limits.num_blocks[engine::kFull] > 0) {
      state.blocks[engine::kFull] = {.table = blocks, .held = blocks};
    }
    if (input.limits.num_blocks[engine::kSliding] > 0) {
      const int released = std::max(0, kv_tokens - input.limits.window) / kBlockTokens;
      state.blocks[engine::kSliding] = {.table = blocks, .held = blocks - released};
    }
    return state;
  }
  SeqState Next(SeqState state) {
    state.rank.key_us = static_cast<int64_t>(input.seated.size() + input.waiting.size());
    return state;
  }
  PlanInputBuilder& Decoding(int kv_tokens) {
    input.seated.push_back(Next(State(1, kv_tokens + 1, kv_tokens)));
    return *this;
  }
  PlanInputBuilder& Prefilling(int prompt_tokens, int kv_tokens) {
    input.seated.push_back(Next(State(prompt_tokens, prompt_tokens, kv_tokens)));
    return *this;
  }
  PlanInputBuilder& Waiting(int prompt_tokens) {
    input.waiting.push_back(Next(State(prompt_tokens, prompt_tokens, 0)));
    return *this;
  }
  // A decoder with guesses at hand, which also wants `wish` for the next step, whatever it costs.
  PlanInputBuilder& Drafting(int kv_tokens, int drafts, int wish = 0) {
    Decoding(kv_tokens);
    input.seated.back().drafts = drafts;
    return Wishing(wish);
  }
  // Of the last one: so many tokens for the next step.
  PlanInputBuilder& Wishing(int wish) {
    (input.waiting.empty() ? input.seated : input.waiting).back().wish = {
        .mode = Speculation::Mode::kFixed, .max_tokens = wish, .history = {}};
    return *this;
  }
  // Of the last one.
  PlanInputBuilder& Of(int tenant) {
    (input.waiting.empty() ? input.seated : input.waiting).back().tenant = tenant;
    return *this;
  }
  PlanInputBuilder& Paused() {
    input.seated.back().paused = true;
    return *this;
  }
  PlanInputBuilder& Slots(int max_slots) {
    input.config.max_slots = max_slots;
    return *this;
  }
  PlanInputBuilder& Free(int full_blocks) {
    input.free_blocks[engine::kFull] = full_blocks;
    return *this;
  }
  // Prompt rows cost 10 ms and decode steps 50 ms, so 20 rows fit into 250 ms.
  PlanInputBuilder& Measured() {
    input.cost = {};
    Observe(input.cost, /*prompt_rows=*/0, /*decode_rows=*/1, 50'000);
    input.cost.prompt_row_us = 10'000;
    return *this;
  }
};

}  // namespace tandem::scheduler
