#include "engine/assistant_weights.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace tandem::engine {

size_t LayOutAssistantWeights(const AssistantConfig& config, std::byte* base,
                              AssistantWeights& weights, std::vector<WeightItem>& items) {
  weights = {};
  items.clear();
  WeightLayout layout(base, items);
  const int hidden = config.hidden;
  const int backbone = config.backbone_hidden;
  weights.pre = layout.Matrix(2 * backbone, {{"pre_projection.weight", hidden}});
  for (int i = 0; i < config.num_layers(); ++i) {
    const LayerDesc& desc = config.layers[i];
    const std::string prefix = absl::StrCat("model.layers.", i, ".");
    const int q_rows = desc.num_q_heads * desc.head_dim;
    AssistantLayerWeights layer;
    layer.input_norm = layout.Vector(prefix + "input_layernorm.weight", hidden);
    layer.q = layout.Matrix(hidden, {{prefix + "self_attn.q_proj.weight", q_rows}});
    layer.q_norm = layout.Vector(prefix + "self_attn.q_norm.weight", desc.head_dim);
    layer.o = layout.Matrix(q_rows, {{prefix + "self_attn.o_proj.weight", hidden}});
    layer.post_attn_norm = layout.Vector(prefix + "post_attention_layernorm.weight", hidden);
    layer.pre_ffn_norm = layout.Vector(prefix + "pre_feedforward_layernorm.weight", hidden);
    layer.gate_up = layout.GateUp(prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight",
                                  desc.mlp_width, hidden);
    layer.down = layout.Matrix(desc.mlp_width, {{prefix + "mlp.down_proj.weight", hidden}});
    layer.post_ffn_norm = layout.Vector(prefix + "post_feedforward_layernorm.weight", hidden);
    layer.layer_scalar = layout.Vector(prefix + "layer_scalar", 1);
    weights.layers.push_back(layer);
  }
  weights.final_norm = layout.Vector("model.norm.weight", hidden);
  weights.post = layout.Matrix(hidden, {{"post_projection.weight", backbone}});
  if (config.clustered) {
    weights.centroids =
        layout.Matrix(hidden, {{"masked_embedding.centroids.weight", config.num_clusters}});
    weights.cluster_ids = layout.TokenIds("masked_embedding.token_ordering", config.vocab);
    weights.first_cluster = layout.Clusters("model.embed_tokens.weight", config.vocab, hidden,
                                            config.cluster_rows(), weights.cluster_ids);
    weights.cluster_elements = kernels::PackedElements(config.cluster_rows(), hidden);
  } else {
    weights.head = layout.Matrix(hidden, {{"model.embed_tokens.weight", config.vocab}});
  }
  return layout.used();
}

size_t AssistantWeightBytes(const AssistantConfig& config) {
  AssistantWeights weights;
  std::vector<WeightItem> items;
  return LayOutAssistantWeights(config, nullptr, weights, items);
}

}  // namespace tandem::engine
