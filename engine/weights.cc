#include "engine/weights.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace tandem::engine {
namespace {

using kernels::Bf16;
using kernels::PackedElements;
using kernels::WeightView;

class Layout {
 public:
  Layout(std::byte* base, std::vector<WeightItem>& items)
      : base_(reinterpret_cast<uintptr_t>(base)), items_(items) {}

  size_t used() const { return used_; }

  // A packed matrix that one or more tensors fill from top to bottom.
  WeightView Matrix(int in, const std::vector<std::pair<std::string, int>>& parts) {
    int out = 0;
    for (const auto& part : parts) out += part.second;
    std::byte* target = Take(PackedElements(out, in) * sizeof(Bf16));
    int row = 0;
    for (const auto& [name, rows] : parts) {
      WeightItem item{.kind = WeightItem::Kind::kMatrix, .name = name};
      item.shape = {rows, in};
      item.target = target;
      item.row_begin = row;
      items_.push_back(std::move(item));
      row += rows;
    }
    return {reinterpret_cast<const Bf16*>(target), out, in};
  }

  WeightView GateUp(const std::string& gate, const std::string& up, int width, int in) {
    const int out = GateUpRows(width);
    std::byte* target = Take(PackedElements(out, in) * sizeof(Bf16));
    WeightItem item{.kind = WeightItem::Kind::kGate, .name = gate, .up_name = up};
    item.shape = {width, in};
    item.target = target;
    items_.push_back(std::move(item));
    return {reinterpret_cast<const Bf16*>(target), out, in};
  }

  std::vector<WeightView> Experts(WeightItem::Kind kind, const std::string& name, int experts,
                                  std::vector<int64_t> shape, int out, int in) {
    const size_t bytes = PackedElements(out, in) * sizeof(Bf16);
    std::byte* target = Take(bytes * experts);
    WeightItem item{.kind = kind, .name = name};
    item.shape = std::move(shape);
    item.target = target;
    item.expert_bytes = bytes;
    items_.push_back(std::move(item));
    std::vector<WeightView> views;
    for (int e = 0; e < experts; ++e) {
      views.push_back({reinterpret_cast<const Bf16*>(target + e * bytes), out, in});
    }
    return views;
  }

  const float* Vector(const std::string& name, int size, float scale = 1.0f) {
    std::byte* target = Take(size * sizeof(float));
    WeightItem item{.kind = WeightItem::Kind::kVector, .name = name};
    item.shape = {size};
    item.target = target;
    item.scale = scale;
    items_.push_back(std::move(item));
    return reinterpret_cast<const float*>(target);
  }

  static int GateUpRows(int width) { return static_cast<int>(kernels::PackedTiles(width)) * 32; }

 private:
  std::byte* Take(size_t bytes) {
    const uintptr_t at = base_ + used_;
    used_ += (bytes + 63) / 64 * 64;
    return reinterpret_cast<std::byte*>(at);  // never read when the base is null
  }

  uintptr_t base_;
  std::vector<WeightItem>& items_;
  size_t used_ = 0;
};

void LayOutExperts(const ModelConfig& config, const std::string& prefix, Layout& layout,
                   LayerWeights& layer) {
  const int hidden = config.hidden;
  const int width = config.expert_width;
  const int experts = config.experts;
  layer.router = layout.Matrix(hidden, {{prefix + "router.proj.weight", experts}});
  layer.router_scale =
      layout.Vector(prefix + "router.scale", hidden, 1.0f / std::sqrt(static_cast<float>(hidden)));
  layer.expert_scale = layout.Vector(prefix + "router.per_expert_scale", experts);
  layer.expert_gate_up =
      layout.Experts(WeightItem::Kind::kExpertGateUp, prefix + "experts.gate_up_proj", experts,
                     {experts, 2 * width, hidden}, Layout::GateUpRows(width), hidden);
  layer.expert_down = layout.Experts(WeightItem::Kind::kExpertDown, prefix + "experts.down_proj",
                                     experts, {experts, hidden, width}, hidden, width);
  layer.pre_ffn_norm_2 = layout.Vector(prefix + "pre_feedforward_layernorm_2.weight", hidden);
  layer.post_ffn_norm_1 = layout.Vector(prefix + "post_feedforward_layernorm_1.weight", hidden);
  layer.post_ffn_norm_2 = layout.Vector(prefix + "post_feedforward_layernorm_2.weight", hidden);
}

}  // namespace

size_t LayOutWeights(const ModelConfig& config, std::byte* base, Weights& weights,
                     std::vector<WeightItem>& items) {
  weights = {};
  items.clear();
  Layout layout(base, items);
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
    const std::string attn = prefix + "self_attn.";
    const int q_rows = desc.num_q_heads * desc.head_dim;
    const int kv_rows = desc.num_kv_heads * desc.head_dim;
    LayerWeights layer;
    layer.input_norm = layout.Vector(prefix + "input_layernorm.weight", hidden);
    std::vector<std::pair<std::string, int>> qkv = {{attn + "q_proj.weight", q_rows}};
    layer.q_norm = layout.Vector(attn + "q_norm.weight", desc.head_dim);
    if (desc.kv_owner == i) {
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
  return sizeof(Bf16) * static_cast<size_t>(config.ple_width > 0 ? config.ple_vocab : 0) *
         config.num_layers() * config.ple_width;
}

}  // namespace tandem::engine
