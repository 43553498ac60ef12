#include "engine/draft_buffers.h"

#include <algorithm>

#include "engine/buffer_cursor.h"

namespace tandem::engine {

int LogitRows(const AssistantConfig& config, int max_slots) {
  constexpr int kMostDenseRows = 64;
  return config.clustered ? max_slots : std::min(max_slots, kMostDenseRows);
}

size_t LogitsPerRow(const AssistantConfig& config) {
  return config.clustered ? size_t(config.clusters_per_token) * config.cluster_rows()
                          : size_t(config.vocab);
}

size_t LayOutDraftBuffers(const AssistantConfig& config, int max_slots, size_t operand_bytes,
                          std::byte* base, DraftBuffers& b) {
  BufferCursor cursor(base);
  const auto floats = [&](size_t rows, size_t per_row) { return cursor.Floats(rows * per_row); };
  const auto operands = [&](size_t rows, size_t per_row) {
    return cursor.Bytes(rows * per_row * operand_bytes);
  };
  const size_t slots = max_slots;
  const size_t logit_rows = LogitRows(config, max_slots);
  size_t query = 0, mlp = 0;
  for (const LayerDesc& layer : config.layers) {
    query = std::max(query, size_t(layer.num_q_heads) * layer.head_dim);
    mlp = std::max(mlp, size_t(layer.mlp_width));
  }
  b.u = operands(slots, 2 * size_t(config.backbone_hidden));
  b.x = floats(slots, config.hidden);
  b.n = operands(slots, config.hidden);
  b.y = floats(slots, config.hidden);
  b.q = floats(slots, query);
  b.attn = operands(slots, query);
  b.mlp = operands(slots, mlp);
  for (const KvGroup group : {kSliding, kFull}) {
    const size_t live = config.InvFreq(group).size();
    b.cos[group] = floats(slots, live);
    b.sin[group] = floats(slots, live);
    b.inv_freq[group] = cursor.Floats(live);
  }
  if (config.clustered) {
    b.scores = floats(logit_rows, config.num_clusters);
    b.clusters = cursor.Ints(logit_rows * config.clusters_per_token);
  }
  b.suppressed = reinterpret_cast<uint32_t*>(cursor.Ints((config.vocab + 31) / 32));
  b.logits = floats(logit_rows, LogitsPerRow(config));
  return cursor.used_bytes();
}

}  // namespace tandem::engine
