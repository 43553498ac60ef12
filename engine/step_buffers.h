// The activations of a step of the target, and where they lie.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/model_config.h"

namespace tandem::engine {

// f32, or operands (kernels/ops.h) where the pointer has no type; all [max_step_rows, ...] unless
// said otherwise.
struct StepBuffers {
  float* h = nullptr;         // [., H] residual stream
  void* x = nullptr;          // [., H] normed input of a product
  float* y = nullptr;         // [., H] output of a product, before it joins the residual
  void* z = nullptr;          // [., H] input of the head: the sampled rows behind the last norm
  float* qkv = nullptr;       // [., widest q + k + v]
  void* attn = nullptr;       // [., widest Hq * D]
  void* mlp = nullptr;        // [., widest MLP or P]
  float* ple = nullptr;       // [., L * P] per-layer inputs
  float* ple_gate = nullptr;  // [., P]
  std::array<float*, kNumKvGroups> cos = {};  // [., live pairs]
  std::array<float*, kNumKvGroups> sin = {};
  std::array<float*, kNumKvGroups> inv_freq = {};  // [live pairs], once
  float* router_x = nullptr;                       // [., H] what the router scores
  float* router = nullptr;                         // [., E]
  float* expert_weights = nullptr;                 // [., K]
  int32_t* expert_ids = nullptr;                   // [., K]
  float* expert_y = nullptr;                       // [., H]
  uint32_t* suppressed = nullptr;  // [ceil(V / 32)] bits of ids that are never drawn, once
  float* logits = nullptr;         // [StepLogitRows, V]
};

// Rows of the head computed at once: 64, which are 64 MiB at the published vocabulary, or less.
int StepLogitRows(int max_step_rows);

// Places the buffers behind `base` (64-byte aligned; null to learn the size); returns bytes used.
//   operand_bytes  kernels::Ops::operand_bytes
size_t LayOutStepBuffers(const ModelConfig& config, int max_step_rows, size_t operand_bytes,
                         std::byte* base, StepBuffers& buffers);

}  // namespace tandem::engine
