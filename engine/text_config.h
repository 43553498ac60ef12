// The part of a config.json that a target and an assistant share: the shapes of a Gemma 4 text
// stack, in both forms in which they are published (global_head_dim and num_global_key_value_heads,
// or per_layer_config).
//
// Source    gemma4.md 1.2 to 1.4, mtp.md 1.3. Not here  what only one of the two has: per-layer
// embeddings, experts and owners of K/V (model_config.h), the head (assistant_config.h).
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/config_reader.h"
#include "engine/model_config.h"

namespace tandem::engine {

// A config.json and the object inside it that holds the text keys: text_config, or the top level.
struct TextConfigFile {
  std::unique_ptr<const Json> root;
  const Json* text = nullptr;  // inside `root`
  std::string outer_type;      // model_type at the top level; may be empty
  std::string type;            // model_type of the text keys; the outer one without its own
};

absl::StatusOr<TextConfigFile> OpenTextConfig(std::string_view json, const std::string& name);

struct TextConfig {
  int hidden = 0;
  int vocab = 0;
  int sliding_window = 0;
  int max_positions = 0;
  float rms_eps = 1e-6f;
  float logit_softcap = 0.0f;  // 0: none
  std::array<RopeParams, kNumKvGroups> rope;
  std::vector<LayerDesc> layers;  // kv_owner and kv_index are not set, moe is false
  int shared_layers = 0;          // the last so many read the K/V of others; at most all
  bool double_wide_mlp = false;   // in layers that share; mlp_width is the plain width
};

// What is wrong is kept in reader.status().
//   unified      takes the defaults of gemma4_unified
//   ends_full    the last layer is full, whatever layer_types says (gemma4.md 1.3)
TextConfig ReadTextConfig(ConfigReader& reader, bool unified, bool ends_full);

// The frequencies of the rotating pairs of a group's layers, [live] (gemma4.md 2.4); none without
// such a layer.
std::vector<float> RopeFrequencies(const std::vector<LayerDesc>& layers,
                                   const std::array<RopeParams, kNumKvGroups>& rope, KvGroup group);

}  // namespace tandem::engine
