#include "engine/weights.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tandem::engine {
namespace {

void LayOutExperts(const ModelConfig& config, const std::string& prefix, WeightLayout& layout,
                   LayerWeights& layer) {
  const int hidden = config.hidden;
  const int width = config.expert_width;
  const int experts = config.experts;
  layer.router = layout.Matrix(hidden, {{prefix + "router.proj.weight", experts}});
  layer.router_scale =
      layout.Vector(prefix + "router.scale", hidden, 1.0f / std::sqrt(static_cast<float>(hidden)));
  layer.expert_scale = layout.Vector(prefix + "router.per_expert_scale", experts);
  layer.expert_gate_up =
      layout.ExpertGateUp(prefix + "experts.gate_up_proj", experts, width, hidden);
  layer.expert_down = layout.ExpertDown(prefix + "experts.down_proj", experts, hidden, width);
  layer.pre_ffn_norm_2 = layout.Vector(prefix + "pre_feedforward_layernorm_2.weight", hidden);
  layer.post_ffn_norm_1 = layout.Vector(prefix + "post_feedforward_layernorm_1.weight", hidden);
  layer.post_ffn_norm_2 = layout.Vector(prefix + "post_feedforward_layernorm_2.weight", hidden);
}

}  // namespace

LayerWeights LayOutLayer(WeightLayout& layout, const std::string& prefix, int hidden,
                         const LayerDesc& desc, bool owns_kv) {
  const std::string attn = prefix + "self_attn.";
  const int q_rows = desc.num_q_heads * desc.head_dim;
  const int kv_rows = desc.num_kv_heads * desc.head_dim;
  LayerWeights layer;
  layer.input_norm = layout.Vector(prefix + "input_layernorm.weight", hidden);
  std::vector<std::pair<std::string, int>> qkv = {{attn + "q_proj.weight", q_rows}};
  layer.q_norm = layout.Vector(attn + "q_norm.weight", desc.head_dim);
  if (owns_kv) {
    qkv.push_back({attn + "k_proj.weight", kv_rows});
    if (desc.has_v_proj) qkv.push_back({attn + "v_proj.weight", kv_rows});
    layer.k_norm = layout.Vector(attn + "k_norm.weight", desc.head_dim);
  }
  layer.qkv = layout.Matrix(hidden, qkv);
  layer.o = layout.Matrix(q_rows, {{attn + "o_proj.weight", hidden}});
  layer.post_attn_norm = layout.Vector(prefix + "post_attention_layernorm.weight", hidden);
  layer.pre_ffn_norm = layout.Vector(prefix + "pre_feedforward_layernorm.weight", hidden);
  layer.gate_up = layout.GateUp(prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight",
                                desc.mlp_width, hidden);
  layer.down = layout.Matrix(desc.mlp_width, {{prefix + "mlp.down_proj.weight", hidden}});
  layer.post_ffn_norm = layout.Vector(prefix + "post_feedforward_layernorm.weight", hidden);
  layer.layer_scalar = layout.Vector(prefix + "layer_scalar", 1);
  return layer;
}

size_t LayOutWeights(const ModelConfig& config, std::byte* base, Weights& weights,
                     std::vector<WeightItem>& items) {
  weights = {};
  items.clear();
  WeightLayout layout(base, items);
  const int hidden = config.hidden;
  weights.embed = layout.Matrix(hidden, {{"embed_tokens.weight", config.vocab}});
  weights.head =
      config.tied_head ? weights.embed : layout.Matrix(hidden, {{"lm_head.weight", config.vocab}});
  weights.final_norm = layout.Vector("norm.weight", hidden);
  if (config.ple_width > 0) {
    const int all_layers = config.num_layers() * config.ple_width;
    weights.ple_context =
        layout.Matrix(hidden, {{"per_layer_model_projection.weight", all_layers}});
    weights.ple_norm = layout.Vector("per_layer_projection_norm.weight", config.ple_width);
  }
  for (int i = 0; i < config.num_layers(); ++i) {
    const LayerDesc& desc = config.layers[i];
    const std::string prefix = absl::StrCat("layers.", i, ".");
    LayerWeights layer = LayOutLayer(layout, prefix, hidden, desc, desc.kv_owner == i);
    if (config.ple_width > 0) {
      layer.ple_gate =
          layout.Matrix(hidden, {{prefix + "per_layer_input_gate.weight", config.ple_width}});
      layer.ple_up =
          layout.Matrix(config.ple_width, {{prefix + "per_layer_projection.weight", hidden}});
      layer.post_ple_norm = layout.Vector(prefix + "post_per_layer_input_norm.weight", hidden);
    }
    if (desc.moe) LayOutExperts(config, prefix, layout, layer);
    weights.layers.push_back(std::move(layer));
  }
  return layout.used();
}

size_t WeightBytes(const ModelConfig& config) {
  Weights weights;
  std::vector<WeightItem> items;
  return LayOutWeights(config, nullptr, weights, items);
}

size_t PleTableBytes(const ModelConfig& config) {
  return sizeof(kernels::Bf16) * static_cast<size_t>(config.ple_width > 0 ? config.ple_vocab : 0) *
         config.num_layers() * config.ple_width;
}

}  // namespace tandem::engine
