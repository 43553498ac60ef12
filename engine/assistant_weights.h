// The weights of an assistant as its forward reads them, and where each checkpoint tensor goes.
//
// Not here  reading files (checkpoint.h), filling (fill_weights.h, load_assistant.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/assistant_config.h"
#include "engine/weights.h"
#include "kernels/types.h"

namespace tandem::engine {

// Names in comments: d = hidden, D = backbone_hidden, V = vocab. Vectors are f32, widened at load.
struct AssistantWeights {
  kernels::WeightView pre;   // [d, 2 * D]: the target's embedding first, then the hidden row
  kernels::WeightView post;  // [D, d]
  std::vector<LayerWeights> layers;   // all share KV
  const float* final_norm = nullptr;  // [d]
  kernels::WeightView head;           // [V, d] rows by token id; empty with a clustered head
  // The clustered head; empty with a dense one. Cluster c owns the m = V / num_clusters tokens
  // cluster_ids[c * m, (c + 1) * m). Its rows are a packed matrix of their own, in that order, at
  // first_cluster.data + c * cluster_elements, so m need not be a multiple of a tile.
  kernels::WeightView centroids;         // [num_clusters, d]
  kernels::WeightView first_cluster;     // [m, d]
  size_t cluster_elements = 0;           // kernels::PackedElements(m, d)
  const int32_t* cluster_ids = nullptr;  // [V] a permutation of the token ids
};

// Places every weight behind `base` (64-byte aligned; null to learn the size).
//   weights  views and pointers into that memory
//   items    what has to be read, in memory order; names from the root of the checkpoint
//   format   of matrices; a dense head is of SensitiveFormat, centroids and clusters stay bf16
//   returns  bytes used
size_t LayOutAssistantWeights(const AssistantConfig& config, std::byte* base,
                              AssistantWeights& weights, std::vector<WeightItem>& items,
                              kernels::WeightFormat format = kernels::WeightFormat::kBf16);

// Bytes of LayOutAssistantWeights.
size_t AssistantWeightBytes(const AssistantConfig& config,
                            kernels::WeightFormat format = kernels::WeightFormat::kBf16);

}  // namespace tandem::engine
