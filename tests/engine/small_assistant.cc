#include "tests/engine/small_assistant.h"

namespace tandem::testing {

using engine::AssistantConfig;
using engine::kFull;
using engine::kNumKvGroups;
using engine::kSliding;
using engine::LayerDesc;
using engine::ModelConfig;
using nlohmann::json;

json SmallAssistantConfig() {
  const json types = {"sliding_attention", "full_attention"};
  return {{"model_type", "gemma4_assistant"},
          {"backbone_hidden_size", 96},
          {"text_config",
           {{"model_type", "gemma4_text"},
            {"hidden_size", 64},
            {"vocab_size", 1024},
            {"num_hidden_layers", 2},
            {"num_kv_shared_layers", 2},
            {"num_attention_heads", 4},
            {"num_key_value_heads", 2},
            {"intermediate_size", 128},
            {"sliding_window", 24},
            {"layer_types", types}}}};
}

absl::StatusOr<AssistantConfig> ParseAssistant(const json& config, const std::string& generation) {
  return engine::ParseAssistantConfig(config.dump(), generation, "config.json");
}

ModelConfig SmallTarget(const std::string& pattern, int shared) {
  ModelConfig target;
  target.hidden = 96;
  target.vocab = 1024;
  target.first_shared = static_cast<int>(pattern.size()) - shared;
  target.rope[kSliding] = {10000.0f, 1.0f, 1.0f};
  target.rope[kFull] = {1e6f, 0.25f, 1.0f};
  int owners[kNumKvGroups] = {0, 0};
  int last[kNumKvGroups] = {-1, -1};
  for (size_t i = 0; i < pattern.size(); ++i) {
    LayerDesc layer;
    layer.full = pattern[i] == 'F';
    layer.head_dim = layer.full ? 512 : 256;
    layer.num_q_heads = 4;
    layer.num_kv_heads = 2;
    layer.window = layer.full ? 0 : 24;
    layer.mlp_width = 128;
    if (static_cast<int>(i) < target.first_shared) {
      last[layer.group()] = static_cast<int>(i);
      ++owners[layer.group()];
    }
    layer.kv_owner = last[layer.group()];
    layer.kv_index = owners[layer.group()] - 1;
    target.layers.push_back(layer);
  }
  return target;
}

std::vector<int> Donors(const AssistantConfig& config) {
  std::vector<int> donors;
  for (const LayerDesc& layer : config.layers) donors.push_back(layer.kv_owner);
  return donors;
}

}  // namespace tandem::testing
