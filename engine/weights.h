// The weights of a target as the forward reads them, and where each checkpoint tensor goes. Layers
// of an assistant are such layers too.
//
// Not here  reading files (checkpoint.h), filling (fill_weights.h, load_model.h).
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "engine/model_config.h"
#include "engine/weight_layout.h"
#include "kernels/types.h"

namespace tandem::engine {

// Names in comments: gemma4.md 3.1; H is an assistant's own hidden size. Vectors are f32, widened
// at load.
struct LayerWeights {
  const float* input_norm = nullptr;      // [H]
  const float* q_norm = nullptr;          // [D]
  const float* k_norm = nullptr;          // [D]; null on layers that share KV
  const float* post_attn_norm = nullptr;  // [H]
  const float* pre_ffn_norm = nullptr;    // [H]
  const float* post_ffn_norm = nullptr;   // [H]
  const float* layer_scalar = nullptr;    // [1]
  kernels::WeightView qkv;                // [(Hq + Hkv + Hkv) * D, H]; less without K/V or V rows
  kernels::WeightView o;                  // [H, Hq * D]
  kernels::WeightView gate_up;            // interleaved, kernels::LinearGegluArgs
  kernels::WeightView down;               // [H, I]
  // Per-layer embeddings; empty without them.
  kernels::WeightView ple_gate;          // [P, H]
  kernels::WeightView ple_up;            // [H, P]
  const float* post_ple_norm = nullptr;  // [H]
  // Experts; empty on dense layers.
  kernels::WeightView router;                       // [E, H]
  const float* router_scale = nullptr;              // [H] router.scale * H^(-1/2)
  const float* expert_scale = nullptr;              // [E]
  std::vector<kernels::WeightView> expert_gate_up;  // [E] interleaved
  std::vector<kernels::WeightView> expert_down;     // [E] [H, M]
  const float* pre_ffn_norm_2 = nullptr;            // [H] input of the experts
  const float* post_ffn_norm_1 = nullptr;           // [H] behind the dense branch
  const float* post_ffn_norm_2 = nullptr;           // [H] behind the experts
};

struct Weights {
  kernels::WeightView embed;  // [V, H]
  kernels::WeightView head;   // [V, H]; equal to `embed` when tied
  const float* final_norm = nullptr;
  kernels::WeightView ple_context;           // [L * P, H]
  const float* ple_norm = nullptr;           // [P]
  const kernels::Bf16* ple_table = nullptr;  // [ple_vocab, L * P] row-major; maybe unaligned
  std::vector<LayerWeights> layers;
};

// What embeddings, heads and the projections of per-layer embeddings are held as when all else is
// `format`: 8 bits at least (gemma4.md 8, row 16). Routers and the per-layer table stay bf16.
kernels::WeightFormat SensitiveFormat(kernels::WeightFormat format);

// Places what a dense layer without per-layer embeddings has: norms, projections, MLP, scalar.
//   prefix   of the layer's tensors, with the dot behind its number
//   owns_kv  false: a layer that shares KV; then qkv has only q rows, and there is no k_norm
LayerWeights LayOutLayer(WeightLayout& layout, const std::string& prefix, int hidden,
                         const LayerDesc& desc, bool owns_kv, kernels::WeightFormat format);

// Places every weight but the PLE table behind `base` (64-byte aligned; null to learn the size).
//   weights  views and pointers into that memory
//   items    what has to be read, in memory order; names behind the text prefix, but for the
//            untied head, which is named from the root
//   format   of matrices, but for those of SensitiveFormat
//   returns  bytes used
size_t LayOutWeights(const ModelConfig& config, std::byte* base, Weights& weights,
                     std::vector<WeightItem>& items,
                     kernels::WeightFormat format = kernels::WeightFormat::kBf16);

// Bytes of LayOutWeights, and of the per-layer embedding table, which stays as stored.
size_t WeightBytes(const ModelConfig& config,
                   kernels::WeightFormat format = kernels::WeightFormat::kBf16);
size_t PleTableBytes(const ModelConfig& config);

}  // namespace tandem::engine
