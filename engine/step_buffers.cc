#include "engine/step_buffers.h"

#include <algorithm>

#include "engine/buffer_cursor.h"

namespace tandem::engine {

int StepLogitRows(int max_step_rows) { return std::min(max_step_rows, 64); }

size_t LayOutStepBuffers(const ModelConfig& config, int rows, size_t operand_bytes, std::byte* base,
                         StepBuffers& b) {
  BufferCursor cursor(base);
  const auto floats = [&](size_t per_row) { return cursor.Floats(per_row * rows); };
  const auto operands = [&](size_t per_row) {
    return cursor.Bytes(per_row * rows * operand_bytes);
  };
  size_t qkv = 0, attn = 0;
  size_t mlp = config.ple_width;
  for (const LayerDesc& layer : config.layers) {
    const size_t heads = layer.num_q_heads + 2 * layer.num_kv_heads;
    qkv = std::max(qkv, heads * layer.head_dim);
    attn = std::max<size_t>(attn, size_t(layer.num_q_heads) * layer.head_dim);
    mlp = std::max<size_t>(mlp, layer.mlp_width);
  }
  b.h = floats(config.hidden);
  b.x = operands(config.hidden);
  b.y = floats(config.hidden);
  b.z = operands(config.hidden);
  b.qkv = floats(qkv);
  b.attn = operands(attn);
  b.mlp = operands(mlp);
  for (const KvGroup group : {kSliding, kFull}) {
    const size_t live = config.InvFreq(group).size();
    b.cos[group] = floats(live);
    b.sin[group] = floats(live);
    b.inv_freq[group] = cursor.Floats(live);
  }
  if (config.ple_width > 0) {
    b.ple = floats(size_t(config.num_layers()) * config.ple_width);
    b.ple_gate = floats(config.ple_width);
  }
  if (config.experts > 0) {
    b.router_x = floats(config.hidden);
    b.router = floats(config.experts);
    b.expert_weights = floats(config.experts_per_token);
    b.expert_ids = cursor.Ints(size_t(rows) * config.experts_per_token);
    b.expert_y = floats(config.hidden);
  }
  b.suppressed = reinterpret_cast<uint32_t*>(cursor.Ints((config.vocab + 31) / 32));
  b.logits = cursor.Floats(size_t(StepLogitRows(rows)) * config.vocab);
  return cursor.used_bytes();
}

}  // namespace tandem::engine
