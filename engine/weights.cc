#include "engine/weights.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tandem::engine {

using kernels::WeightFormat;

namespace {

void LayOutExperts(const ModelConfig& config, WeightFormat format, const std::string& prefix,
                   WeightLayout& layout, LayerWeights& layer) {
  const int hidden = config.hidden;
  const int width = config.expert_width;
  const int experts = config.experts;
  layer.router =
      layout.Matrix(WeightFormat::kBf16, hidden, {{prefix + "router.proj.weight", experts}});
  layer.router_scale =
      layout.Vector(prefix + "router.scale", hidden, 1.0f / std::sqrt(static_cast<float>(hidden)));
  layer.expert_scale = layout.Vector(prefix + "router.per_expert_scale", experts);
  layer.expert_gate_up =
      layout.ExpertGateUp(format, prefix + "experts.gate_up_proj", experts, width, hidden);
  layer.expert_down =
      layout.ExpertDown(format, prefix + "experts.down_proj", experts, hidden, width);
  layer.pre_ffn_norm_2 = layout.Vector(prefix + "pre_feedforward_layernorm_2.weight", hidden);
  layer.post_ffn_norm_1 = layout.Vector(prefix + "post_feedforward_layernorm_1.weight", hidden);
  layer.post_ffn_norm_2 = layout.Vector(prefix + "post_feedforward_layernorm_2.weight", hidden);
}

}  // namespace

WeightFormat SensitiveFormat(WeightFormat format) {
  return format == WeightFormat::kInt4 ? WeightFormat::kInt8 : format;
}

LayerWeights LayOutLayer(WeightLayout& layout, const std::string& prefix, int hidden,
                         const LayerDesc& desc, bool owns_kv, WeightFormat format) {
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
  layer.qkv = layout.Matrix(format, hidden, qkv);
  layer.o = layout.Matrix(format, q_rows, {{attn + "o_proj.weight", hidden}});
  layer.post_attn_norm = layout.Vector(prefix + "post_attention_layernorm.weight", hidden);
  layer.pre_ffn_norm = layout.Vector(prefix + "pre_feedforward_layernorm.weight", hidden);
  layer.gate_up = layout.GateUp(format, prefix + "mlp.gate_proj.weight",
                                prefix + "mlp.up_proj.weight", desc.mlp_width, hidden);
  layer.down = layout.Matrix(format, desc.mlp_width, {{prefix + "mlp.down_proj.weight", hidden}});
  layer.post_ffn_norm = layout.Vector(prefix + "post_feedforward_layernorm.weight", hidden);
  layer.layer_scalar = layout.Vector(prefix + "layer_scalar", 1);
  return layer;
}

size_t LayOutWeights(const ModelConfig& config, std::byte* base, Weights& weights,
                     std::vector<WeightItem>& items, WeightFormat format) {
  weights = {};
  items.clear();
  WeightLayout layout(base, items);
  const int hidden = config.hidden;
  const WeightFormat sensitive = SensitiveFormat(format);
  weights.embed = layout.Matrix(sensitive, hidden, {{"embed_tokens.weight", config.vocab}});
  weights.head = config.tied_head
                     ? weights.embed
                     : layout.Matrix(sensitive, hidden, {{"lm_head.weight", config.vocab}});
  weights.final_norm = layout.Vector("norm.weight", hidden);
  if (config.ple_width > 0) {
    const int all_layers = config.num_layers() * config.ple_width;
    weights.ple_context =
        layout.Matrix(sensitive, hidden, {{"per_layer_model_projection.weight", all_layers}});
    weights.ple_norm = layout.Vector("per_layer_projection_norm.weight", config.ple_width);
  }
  for (int i = 0; i < config.num_layers(); ++i) {
    const LayerDesc& desc = config.layers[i];
    const std::string prefix = absl::StrCat("layers.", i, ".");
    LayerWeights layer = LayOutLayer(layout, prefix, hidden, desc, desc.kv_owner == i, format);
    if (config.ple_width > 0) {
      layer.ple_gate = layout.Matrix(sensitive, hidden,
                                     {{prefix + "per_layer_input_gate.weight", config.ple_width}});
      layer.ple_up = layout.Matrix(sensitive, config.ple_width,
                                   {{prefix + "per_layer_projection.weight", hidden}});
      layer.post_ple_norm = layout.Vector(prefix + "post_per_layer_input_norm.weight", hidden);
    }
    if (desc.moe) LayOutExperts(config, format, prefix, layout, layer);
    weights.layers.push_back(std::move(layer));
  }
  return layout.used();
}

size_t WeightBytes(const ModelConfig& config, WeightFormat format) {
  Weights weights;
  std::vector<WeightItem> items;
  return LayOutWeights(config, nullptr, weights, items, format);
}

size_t PleTableBytes(const ModelConfig& config) {
  return sizeof(kernels::Bf16) * static_cast<size_t>(config.ple_width > 0 ? config.ple_vocab : 0) *
         config.num_layers() * config.ple_width;
}

}  // namespace tandem::engine
