#include "engine/text_config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tandem::engine {
namespace {

RopeParams ReadRope(ConfigReader& parent, const Json* all, const char* kind, RopeParams defaults) {
  if (all == nullptr || !all->is_object() || !all->contains(kind)) return defaults;
  const Json& entry = (*all)[kind];
  if (!entry.is_object()) {
    parent.Fail("rope_parameters", absl::StrCat(kind, " is not an object"));
    return defaults;
  }
  ConfigReader reader(entry, absl::StrCat(parent.name(), ": rope_parameters.", kind));
  RopeParams rope;
  rope.theta = reader.Float("rope_theta", defaults.theta, 1.0, 1e12);
  rope.factor = reader.Float("factor", 1.0f, 1e-6, 1e6);
  const std::string type = reader.String("rope_type", "default");
  if (type == "proportional") {
    rope.partial_rotary_factor =
        reader.Float("partial_rotary_factor", defaults.partial_rotary_factor, 0.0, 1.0);
  } else if (type != "default") {
    reader.Fail("rope_type",
                absl::StrCat("is \"", type.substr(0, 60), "\"; known: default, proportional"));
  }
  if (!reader.status().ok()) parent.Fail("rope_parameters", std::string(reader.status().message()));
  return rope;
}

// What one entry of per_layer_config changes.
struct LayerOverride {
  std::optional<int> head_dim;
  std::optional<int> num_key_value_heads;
};

std::map<int, LayerOverride> ReadOverrides(ConfigReader& parent, int num_layers) {
  std::map<int, LayerOverride> overrides;
  const Json* all = parent.Find("per_layer_config");
  if (all == nullptr) return overrides;
  if (!all->is_object()) {
    parent.Fail("per_layer_config", "is not an object");
    return overrides;
  }
  for (const auto& [key, entry] : all->items()) {
    int layer = -1;  // "5" and "05" both mean layer 5
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), layer);
    if (error != std::errc() || end != key.data() + key.size() || layer < 0 ||
        layer >= num_layers) {
      parent.Fail("per_layer_config", absl::StrFormat("has the key \"%s\"; layers are 0..%d",
                                                      key.substr(0, 40), num_layers - 1));
      return overrides;
    }
    if (!entry.is_object()) {
      parent.Fail("per_layer_config", absl::StrFormat("entry %d is not an object", layer));
      return overrides;
    }
    ConfigReader reader(entry, absl::StrFormat("%s: per_layer_config.%d", parent.name(), layer));
    LayerOverride& change = overrides[layer];
    for (const auto& [field, value] : entry.items()) {
      if (field == "head_dim") {
        change.head_dim = reader.Int("head_dim", std::nullopt, 1, 65536);
      } else if (field == "num_key_value_heads") {
        change.num_key_value_heads = reader.Int("num_key_value_heads", std::nullopt, 1, 4096);
      } else {
        reader.Fail(field.substr(0, 60), "is not known; known: head_dim, num_key_value_heads");
      }
    }
    if (!reader.status().ok()) {
      parent.Fail("per_layer_config", std::string(reader.status().message()));
    }
  }
  return overrides;
}

// Which layers are full.
std::vector<bool> ReadLayerTypes(ConfigReader& reader, int num_layers, bool ends_full) {
  std::vector<bool> full(num_layers);
  const Json* types = reader.Find("layer_types");
  if (types == nullptr) {
    for (int i = 0; i < num_layers; ++i) full[i] = (i + 1) % 6 == 0;
    ends_full = true;  // so the default pattern is made
  } else if (!types->is_array() || static_cast<int>(types->size()) != num_layers) {
    reader.Fail("layer_types",
                absl::StrFormat("must be a list of num_hidden_layers = %d entries", num_layers));
  } else {
    for (int i = 0; i < num_layers; ++i) {
      const Json& type = (*types)[i];
      if (type != "sliding_attention" && type != "full_attention") {
        reader.Fail(
            "layer_types",
            absl::StrFormat("entry %d is %s; known: \"sliding_attention\", \"full_attention\"", i,
                            ConfigReader::Shown(type)));
        break;
      }
      full[i] = type == "full_attention";
    }
  }
  if (ends_full) full[num_layers - 1] = true;
  return full;
}

void ReadLayers(ConfigReader& reader, bool ends_full, TextConfig& config) {
  const int num_layers = reader.Int("num_hidden_layers", std::nullopt, 1, 4096);
  const int q_heads = reader.Int("num_attention_heads", std::nullopt, 1, 4096);
  const int kv_heads = reader.Int("num_key_value_heads", std::nullopt, 1, 4096);
  const int head_dim = reader.Int("head_dim", 256, 1, 65536);
  const int global_head_dim = reader.Int("global_head_dim", 512, 1, 65536);
  const int global_kv_heads = reader.Int("num_global_key_value_heads", 0, 0, 4096);
  const bool k_eq_v = reader.Bool("attention_k_eq_v", false);
  const int width = reader.Int("intermediate_size", std::nullopt, 1, kMaxDim);
  config.double_wide_mlp = reader.Bool("use_double_wide_mlp", false);
  config.shared_layers = reader.Int("num_kv_shared_layers", 0, 0, num_layers);
  const std::vector<bool> full = ReadLayerTypes(reader, num_layers, ends_full);
  const std::map<int, LayerOverride> overrides = ReadOverrides(reader, num_layers);
  if (!reader.status().ok()) return;
  for (int i = 0; i < num_layers; ++i) {
    LayerDesc layer;
    layer.full = full[i];
    layer.num_q_heads = q_heads;
    layer.window = full[i] ? 0 : config.sliding_window;
    layer.has_v_proj = !(k_eq_v && full[i]);
    layer.mlp_width = width;
    layer.num_kv_heads = full[i] && k_eq_v && global_kv_heads > 0 ? global_kv_heads : kv_heads;
    layer.head_dim = full[i] ? global_head_dim : head_dim;
    if (!overrides.empty()) {  // it wins over the two keys for full layers, present or not
      const auto change = overrides.find(i);
      const LayerOverride none;
      const LayerOverride& entry = change == overrides.end() ? none : change->second;
      layer.head_dim = entry.head_dim.value_or(head_dim);
      layer.num_kv_heads = entry.num_key_value_heads.value_or(kv_heads);
    }
    config.layers.push_back(layer);
  }
}

}  // namespace

absl::StatusOr<TextConfigFile> OpenTextConfig(std::string_view json, const std::string& name) {
  absl::StatusOr<Json> parsed = ParseJsonObject(json, name);
  if (!parsed.ok()) return parsed.status();
  TextConfigFile file;
  file.root = std::make_unique<const Json>(*std::move(parsed));
  ConfigReader outer(*file.root, name);
  file.outer_type = outer.String("model_type", "");
  if (outer.Find("quantization_config") != nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": quantization_config is set; only unquantised bf16 checkpoints are supported"));
  }
  file.text = outer.Find("text_config");
  if (file.text == nullptr) file.text = file.root.get();
  if (!file.text->is_object()) outer.Fail("text_config", "is not an object");
  if (!outer.status().ok()) return outer.status();
  ConfigReader inner(*file.text, name);
  file.type = inner.String("model_type", file.outer_type);
  if (!inner.status().ok()) return inner.status();
  if (file.type.empty()) return absl::InvalidArgumentError(name + ": model_type is missing");
  return file;
}

TextConfig ReadTextConfig(ConfigReader& reader, bool unified, bool ends_full) {
  TextConfig config;
  config.hidden = reader.Int("hidden_size", std::nullopt, 1, kMaxDim);
  config.vocab = reader.Int("vocab_size", std::nullopt, 1, kMaxDim);
  config.sliding_window = reader.Int("sliding_window", unified ? 1024 : 512, 1, kMaxDim);
  config.max_positions = reader.Int("max_position_embeddings", 131072, 1, kMaxDim);
  config.rms_eps = reader.Float("rms_norm_eps", 1e-6f, 0.0, 1.0);
  config.logit_softcap = reader.Float("final_logit_softcapping", 0.0f, 0.0, 1e6);
  if (reader.Bool("attention_bias", false)) reader.Fail("attention_bias", "is true; not supported");
  if (const std::string act = reader.String("hidden_activation", "gelu_pytorch_tanh");
      act != "gelu_pytorch_tanh") {
    reader.Fail("hidden_activation",
                absl::StrCat("is \"", act.substr(0, 60), "\"; supported: gelu_pytorch_tanh"));
  }
  const Json* rope = reader.Find("rope_parameters");
  if (rope != nullptr && !rope->is_object()) reader.Fail("rope_parameters", "is not an object");
  config.rope[kSliding] = ReadRope(reader, rope, "sliding_attention", {10000.0f, 1.0f, 1.0f});
  config.rope[kFull] = ReadRope(reader, rope, "full_attention", {1e6f, 0.25f, 1.0f});
  if (reader.status().ok()) ReadLayers(reader, ends_full, config);
  return config;
}

std::vector<float> RopeFrequencies(const std::vector<LayerDesc>& layers,
                                   const std::array<RopeParams, kNumKvGroups>& rope,
                                   KvGroup group) {
  const auto layer = std::find_if(layers.begin(), layers.end(),
                                  [&](const LayerDesc& desc) { return desc.group() == group; });
  if (layer == layers.end()) return {};
  const int head_dim = layer->head_dim;
  // Exponents run over the whole head; only the first `live` pairs turn.
  const int live = static_cast<int>(rope[group].partial_rotary_factor * head_dim / 2);
  std::vector<float> inv_freq(live);
  for (int j = 0; j < live; ++j) {
    inv_freq[j] = static_cast<float>(std::pow(double{rope[group].theta}, -2.0 * j / head_dim) /
                                     rope[group].factor);
  }
  return inv_freq;
}

}  // namespace tandem::engine
