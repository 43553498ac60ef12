// The activations of a step of the target, and where they lie.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/model_config.h"

namespace tandem::engine {

// f32, all [max_step_rows, ...] unless said otherwise.
struct StepBuffers {
  float* h = nullptr;         // [., H] residual stream
  float* x = nullptr;         // [., H] normed input of a product
  float* y = nullptr;         // [., H] output of a product, before it joins the residual
  float* qkv = nullptr;       // [., widest q + k + v]
  float* attn = nullptr;      // [., widest Hq * D]
  float* mlp = nullptr;       // [., widest MLP]
  float* ple = nullptr;       // [., L * P] per-layer inputs
  float* ple_gate = nullptr;  // [., P]
  std::array<float*, kNumKvGroups> cos = {};  // [., live pairs]
  std::array<float*, kNumKvGroups> sin = {};
  float* router = nullptr;          // [., E]
  float* expert_weights = nullptr;  // [., K]
  int32_t* expert_ids = nullptr;    // [., K]
  float* expert_y = nullptr;        // [., H]
  float* logits = nullptr;          // [StepLogitRows, V]
};

// Rows of the head computed at once: 64, which are 64 MiB at the published vocabulary, or less.
int StepLogitRows(int max_step_rows);

// Places the buffers behind `base` (64-byte aligned; null to learn the size); returns bytes used.
size_t LayOutStepBuffers(const ModelConfig& config, int max_step_rows, std::byte* base,
                         StepBuffers& buffers);

}  // namespace tandem::engine
