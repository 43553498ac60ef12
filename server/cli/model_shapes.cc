#include "server/cli/model_shapes.h"

#include <string>

#include "absl/strings/str_format.h"

namespace tandem::server {
namespace {

using kernels::ShapeNeed;
using Kind = kernels::ShapeNeed::Kind;

// Heads, and the rows that attention and the MLP hand to products. `Config` is the model's or the
// assistant's.
template <typename Config>
void AddLayers(const Config& config, const std::string& whose, std::vector<ShapeNeed>& needs) {
  for (int i = 0; i < config.num_layers(); ++i) {
    const engine::LayerDesc& layer = config.layers[i];
    const auto name = [&](const char* field) {
      return absl::StrFormat("%s%s of layer %d", whose, field, i);
    };
    needs.push_back({Kind::kRope, name("head_dim"), layer.head_dim,
                     static_cast<int>(config.InvFreq(layer.group()).size())});
    needs.push_back({Kind::kProduct, name("num_attention_heads * head_dim"),
                     layer.num_q_heads * layer.head_dim});
    needs.push_back({Kind::kProduct, name("intermediate_size"), layer.mlp_width});
  }
}

}  // namespace

std::vector<ShapeNeed> ShapesOf(const engine::ModelConfig& config) {
  std::vector<ShapeNeed> needs = {{Kind::kNorm, "hidden_size", config.hidden},
                                  {Kind::kProduct, "hidden_size", config.hidden}};
  AddLayers(config, "", needs);
  if (config.ple_width > 0) {
    needs.push_back({Kind::kPle, "hidden_size_per_layer_input", config.ple_width});
    needs.push_back({Kind::kProduct, "hidden_size_per_layer_input", config.ple_width});
  }
  if (config.experts > 0) {
    needs.push_back({Kind::kProduct, "moe_intermediate_size", config.expert_width});
    needs.push_back({Kind::kExperts, "num_experts", config.experts, config.experts_per_token});
  }
  return needs;
}

std::vector<ShapeNeed> ShapesOf(const engine::AssistantConfig& config) {
  const std::string whose = "the assistant's ";
  std::vector<ShapeNeed> needs = {
      {Kind::kNorm, whose + "hidden_size", config.hidden},
      {Kind::kProduct, whose + "hidden_size", config.hidden},
      {Kind::kProduct, whose + "2 * backbone_hidden_size", 2 * config.backbone_hidden}};
  AddLayers(config, whose, needs);
  return needs;
}

}  // namespace tandem::server
