// The activations of a chain of draft steps, and where they lie.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/assistant_config.h"

namespace tandem::engine {

// f32, or operands (kernels/ops.h) where the pointer has no type; all [max_slots, ...] unless said
// otherwise.
struct DraftBuffers {
  void* u = nullptr;     // [., 2 D] scaled embedding, then the handoff row or its successor
  float* x = nullptr;    // [., d] residual stream
  void* n = nullptr;     // [., d] normed input of a product; z from the final norm on
  float* y = nullptr;    // [., d] output of a product, before it joins the residual
  float* q = nullptr;    // [., widest Hq * hd]
  void* attn = nullptr;  // [., widest Hq * hd]
  void* mlp = nullptr;   // [., widest MLP]
  std::array<float*, kNumKvGroups> cos = {};  // [., live pairs]
  std::array<float*, kNumKvGroups> sin = {};
  std::array<float*, kNumKvGroups> inv_freq = {};  // [live pairs], once
  float* scores = nullptr;                         // [LogitRows, clusters]
  int32_t* clusters = nullptr;                     // [LogitRows, clusters per token], rising
  uint32_t* suppressed = nullptr;  // [ceil(V / 32)] bits of ids that are never guessed, once
  float* logits = nullptr;         // [LogitRows, LogitsPerRow]
};

// Rows whose logits are held at once: of a dense head at most 64, which are 64 MiB as published.
int LogitRows(const AssistantConfig& config, int max_slots);

// The whole vocabulary, or the tokens of the clusters that one row chooses.
size_t LogitsPerRow(const AssistantConfig& config);

// Places the buffers behind `base` (64-byte aligned; null to learn the size); returns bytes used.
//   operand_bytes  kernels::Ops::operand_bytes
size_t LayOutDraftBuffers(const AssistantConfig& config, int max_slots, size_t operand_bytes,
                          std::byte* base, DraftBuffers& buffers);

}  // namespace tandem::engine
