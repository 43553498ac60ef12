#include "engine/model_config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace tandem::engine {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDim = 1 << 24;  // no dimension of a model is near this

// Reads keys of one JSON object and remembers the first thing that was wrong.
class Reader {
 public:
  Reader(const Json& object, std::string name) : object_(object), name_(std::move(name)) {}

  const absl::Status& status() const { return status_; }
  void Fail(std::string_view key, const std::string& what) {
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(name_, ": ", std::string(key), " ", what));
    }
  }

  // Null when absent or JSON null.
  const Json* Find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  int Int(const char* key, std::optional<int> fallback, int low, int high) {
    const Json* value = Find(key);
    if (value == nullptr) {
      if (!fallback.has_value()) Fail(key, "is missing");
      return fallback.value_or(low);
    }
    if (!value->is_number_integer()) {
      Fail(key, absl::StrCat("is ", Shown(*value), ", not an integer"));
      return low;
    }
    const bool fits = value->is_number_unsigned() ? value->get<uint64_t>() <= uint64_t(kMaxDim)
                                                  : std::abs(value->get<int64_t>()) <= kMaxDim;
    if (!fits || value->get<int64_t>() < low || value->get<int64_t>() > high) {
      Fail(key, absl::StrFormat("is %s, outside %d..%d", Shown(*value), low, high));
      return low;
    }
    return value->get<int>();
  }

  float Float(const char* key, float fallback, double low, double high) {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_number()) {
      Fail(key, absl::StrCat("is ", Shown(*value), ", not a number"));
      return fallback;
    }
    const double number = value->get<double>();
    if (!(number >= low && number <= high)) {
      Fail(key, absl::StrFormat("is %g, outside %g..%g", number, low, high));
      return fallback;
    }
    return static_cast<float>(number);
  }

  bool Bool(const char* key, bool fallback) {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) {
      Fail(key, absl::StrCat("is ", Shown(*value), ", not true or false"));
      return fallback;
    }
    return value->get<bool>();
  }

  std::string String(const char* key, const std::string& fallback) {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) {
      Fail(key, absl::StrCat("is ", Shown(*value), ", not a string"));
      return fallback;
    }
    return value->get<std::string>();
  }

  // A single id or a list of ids.
  std::vector<int32_t> Ids(const char* key, int vocab) {
    std::vector<int32_t> ids;
    const Json* value = Find(key);
    if (value == nullptr) return ids;
    const Json list = value->is_array() ? *value : Json::array({*value});
    for (const Json& item : list) {
      if (!item.is_number_integer() || item.get<int64_t>() < 0 || item.get<int64_t>() >= vocab) {
        Fail(key, absl::StrFormat("holds %s, which is no token id below the vocabulary size %d",
                                  Shown(item), vocab));
        return ids;
      }
      ids.push_back(item.get<int32_t>());
    }
    return ids;
  }

  static std::string Shown(const Json& value) {
    std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 57) + "...";
    return text;
  }

 private:
  const Json& object_;
  std::string name_;
  absl::Status status_;
};

absl::StatusOr<Json> ParseObject(std::string_view text, const std::string& name) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not valid JSON (cut off?)"));
  }
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": the top level is not an object"));
  }
  return json;
}

RopeParams ReadRope(Reader& parent, const Json* all, const char* kind, RopeParams defaults,
                    const std::string& name) {
  if (all == nullptr || !all->is_object() || !all->contains(kind)) return defaults;
  const Json& entry = (*all)[kind];
  if (!entry.is_object()) {
    parent.Fail("rope_parameters", absl::StrCat(kind, " is not an object"));
    return defaults;
  }
  Reader reader(entry, absl::StrCat(name, ": rope_parameters.", kind));
  RopeParams rope;
  rope.theta = reader.Float("rope_theta", defaults.theta, 1.0, 1e12);
  rope.factor = reader.Float("factor", 1.0f, 1e-6, 1e6);
  const std::string type = reader.String("rope_type", "default");
  if (type == "proportional") {
    rope.partial_rotary_factor =
        reader.Float("partial_rotary_factor", defaults.partial_rotary_factor, 0.0, 1.0);
  } else if (type != "default") {
    reader.Fail("rope_type", absl::StrCat("is \"", type, "\"; known: default, proportional"));
  }
  if (!reader.status().ok()) parent.Fail("rope_parameters", std::string(reader.status().message()));
  return rope;
}

// What one entry of per_layer_config changes.
struct LayerOverride {
  std::optional<int> head_dim;
  std::optional<int> num_key_value_heads;
};

std::map<int, LayerOverride> ReadOverrides(Reader& parent, int num_layers,
                                           const std::string& name) {
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
    Reader reader(entry, absl::StrFormat("%s: per_layer_config.%d", name, layer));
    LayerOverride& change = overrides[layer];
    for (const auto& [field, value] : entry.items()) {
      if (field == "head_dim") {
        change.head_dim = reader.Int("head_dim", std::nullopt, 1, kMaxDim);
      } else if (field == "num_key_value_heads") {
        change.num_key_value_heads = reader.Int("num_key_value_heads", std::nullopt, 1, kMaxDim);
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

// Which layers are full; the last one always is.
std::vector<bool> ReadLayerTypes(Reader& reader, int num_layers) {
  std::vector<bool> full(num_layers);
  const Json* types = reader.Find("layer_types");
  if (types == nullptr) {
    for (int i = 0; i < num_layers; ++i) full[i] = (i + 1) % 6 == 0;
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
                            Reader::Shown(type)));
        break;
      }
      full[i] = type == "full_attention";
    }
  }
  if (num_layers > 0) full[num_layers - 1] = true;
  return full;
}

absl::Status CheckLayers(const ModelConfig& config, const std::string& name) {
  for (int i = 0; i < config.num_layers(); ++i) {
    const LayerDesc& layer = config.layers[i];
    if (layer.num_q_heads % layer.num_kv_heads != 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: layer %d has %d attention heads, no multiple of its %d key/value heads", name, i,
          layer.num_q_heads, layer.num_kv_heads));
    }
    if (layer.head_dim % 2 != 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: layer %d has the odd head size %d", name, i, layer.head_dim));
    }
    if (layer.kv_owner < 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: layer %d shares keys and values (num_kv_shared_layers = %d) but no earlier %s layer "
          "owns any",
          name, i, config.num_layers() - config.first_shared, layer.full ? "full" : "sliding"));
    }
    const LayerDesc& owner = config.layers[layer.kv_owner];
    if (owner.head_dim != layer.head_dim || owner.num_kv_heads != layer.num_kv_heads) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: layer %d (%d heads of %d) can not read the keys and values of layer %d (%d of %d)",
          name, i, layer.num_kv_heads, layer.head_dim, layer.kv_owner, owner.num_kv_heads,
          owner.head_dim));
    }
  }
  // One rope table serves all layers of a type.
  for (const bool full : {false, true}) {
    std::set<int> sizes;
    for (const LayerDesc& layer : config.layers) {
      if (layer.full == full) sizes.insert(layer.head_dim);
    }
    if (sizes.size() > 1) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: %s layers have several head sizes (%d and %d); one per type is supported", name,
          full ? "full" : "sliding", *sizes.begin(), *sizes.rbegin()));
    }
  }
  return absl::OkStatus();
}

void BuildLayers(Reader& reader, ModelConfig& config, const std::string& name) {
  const int num_layers = reader.Int("num_hidden_layers", std::nullopt, 1, 4096);
  const int q_heads = reader.Int("num_attention_heads", std::nullopt, 1, 4096);
  const int kv_heads = reader.Int("num_key_value_heads", std::nullopt, 1, 4096);
  const int head_dim = reader.Int("head_dim", 256, 1, 65536);
  const int global_head_dim = reader.Int("global_head_dim", 512, 1, 65536);
  const int global_kv_heads = reader.Int("num_global_key_value_heads", 0, 0, 4096);
  const bool k_eq_v = reader.Bool("attention_k_eq_v", false);
  const int width = reader.Int("intermediate_size", std::nullopt, 1, kMaxDim);
  const bool double_wide = reader.Bool("use_double_wide_mlp", false);
  const int shared = reader.Int("num_kv_shared_layers", 0, 0, num_layers);
  const std::vector<bool> full = ReadLayerTypes(reader, num_layers);
  const std::map<int, LayerOverride> overrides = ReadOverrides(reader, num_layers, name);
  if (!reader.status().ok()) return;
  if (shared == num_layers) {
    reader.Fail("num_kv_shared_layers",
                absl::StrFormat("is %d: every layer shares, which only a drafter does", shared));
    return;
  }
  config.first_shared = num_layers - shared;
  std::array<int, kNumKvGroups> last_owner = {-1, -1};
  std::array<int, kNumKvGroups> owners = {0, 0};
  for (int i = 0; i < num_layers; ++i) {
    LayerDesc layer;
    layer.full = full[i];
    layer.num_q_heads = q_heads;
    layer.window = full[i] ? 0 : config.sliding_window;
    layer.has_v_proj = !(k_eq_v && full[i]);
    layer.moe = config.experts > 0;
    layer.mlp_width = width * (double_wide && shared > 0 && i >= config.first_shared ? 2 : 1);
    layer.num_kv_heads = full[i] && k_eq_v && global_kv_heads > 0 ? global_kv_heads : kv_heads;
    layer.head_dim = full[i] ? global_head_dim : head_dim;
    if (!overrides.empty()) {  // it wins over the two keys for full layers, present or not
      const auto change = overrides.find(i);
      const LayerOverride none;
      const LayerOverride& entry = change == overrides.end() ? none : change->second;
      layer.head_dim = entry.head_dim.value_or(head_dim);
      layer.num_kv_heads = entry.num_key_value_heads.value_or(kv_heads);
    }
    const KvGroup group = layer.group();
    if (i < config.first_shared) {
      last_owner[group] = i;
      layer.kv_index = owners[group]++;
    } else {
      layer.kv_index = owners[group] - 1;
    }
    layer.kv_owner = last_owner[group];
    config.layers.push_back(layer);
  }
}

void ReadGeneration(Reader& reader, ModelConfig& config) {
  GenerationDefaults& defaults = config.generation;
  defaults.temperature = reader.Float("temperature", 1.0f, 0.0, 100.0);
  defaults.top_k = reader.Int("top_k", 0, 0, kMaxDim);
  defaults.top_p = reader.Float("top_p", 1.0f, 0.0, 1.0);
  if (!reader.Bool("do_sample", true)) defaults.temperature = 0.0f;
  const std::vector<int32_t> eos = reader.Ids("eos_token_id", config.vocab);
  if (!eos.empty()) defaults.eos_ids = eos;
  defaults.suppressed_ids = reader.Ids("suppress_tokens", config.vocab);
}

bool IsTargetType(std::string_view type) {
  return type == "gemma4" || type == "gemma4_text" || type == "gemma4_unified" ||
         type == "gemma4_unified_text";
}

absl::Status CheckModelType(const std::string& type, const std::string& name) {
  if (IsTargetType(type)) return absl::OkStatus();
  std::string hint = "supported: gemma4, gemma4_text, gemma4_unified, gemma4_unified_text";
  if (type == "gemma4_assistant" || type == "gemma4_unified_assistant") {
    hint = "this is a drafter, which can not serve text by itself; give its target as --model";
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: model_type is \"%s\"; %s", name, type.substr(0, 60), hint));
}

}  // namespace

std::vector<int> ModelConfig::KvOwners(KvGroup group) const {
  std::vector<int> owners;
  for (int i = 0; i < num_layers(); ++i) {
    if (layers[i].kv_owner == i && layers[i].group() == group) owners.push_back(i);
  }
  return owners;
}

std::vector<float> ModelConfig::InvFreq(KvGroup group) const {
  const auto layer = std::find_if(layers.begin(), layers.end(),
                                  [&](const LayerDesc& desc) { return desc.group() == group; });
  if (layer == layers.end()) return {};
  const RopeParams& params = rope[group];
  // gemma4.md 2.4: exponents run over the whole head; only the first `live` pairs turn.
  const int live = static_cast<int>(params.partial_rotary_factor * layer->head_dim / 2);
  std::vector<float> inv_freq(live);
  for (int j = 0; j < live; ++j) {
    inv_freq[j] = static_cast<float>(std::pow(double{params.theta}, -2.0 * j / layer->head_dim) /
                                     params.factor);
  }
  return inv_freq;
}

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_json,
                                             std::string_view generation_json,
                                             const std::string& config_name) {
  absl::StatusOr<Json> parsed = ParseObject(config_json, config_name);
  if (!parsed.ok()) return parsed.status();
  const Json& root = *parsed;
  Reader outer(root, config_name);
  const std::string outer_type = outer.String("model_type", "");
  if (root.contains("quantization_config") && !root["quantization_config"].is_null()) {
    return absl::InvalidArgumentError(absl::StrCat(
        config_name,
        ": quantization_config is set; only unquantised bf16 checkpoints are supported"));
  }
  const Json* text = outer.Find("text_config");
  if (text != nullptr && !text->is_object()) outer.Fail("text_config", "is not an object");
  if (!outer.status().ok()) return outer.status();
  const Json& inner = text != nullptr ? *text : root;
  Reader reader(inner, config_name);
  const std::string type = reader.String("model_type", outer_type);
  for (const std::string& each : {outer_type, type}) {
    if (each.empty()) continue;
    if (absl::Status s = CheckModelType(each, config_name); !s.ok()) return s;
  }
  if (type.empty()) return absl::InvalidArgumentError(config_name + ": model_type is missing");

  ModelConfig config;
  const bool unified = type.find("unified") != std::string::npos;
  config.model_type = unified ? "gemma4_unified" : "gemma4";
  config.hidden = reader.Int("hidden_size", std::nullopt, 1, kMaxDim);
  config.vocab = reader.Int("vocab_size", std::nullopt, 1, kMaxDim);
  config.sliding_window = reader.Int("sliding_window", unified ? 1024 : 512, 1, kMaxDim);
  config.max_positions = reader.Int("max_position_embeddings", 131072, 1, kMaxDim);
  config.rms_eps = reader.Float("rms_norm_eps", 1e-6f, 0.0, 1.0);
  config.logit_softcap = reader.Float("final_logit_softcapping", 0.0f, 0.0, 1e6);
  config.tied_head = reader.Bool("tie_word_embeddings", true);
  config.ple_width = reader.Int("hidden_size_per_layer_input", unified ? 0 : 256, 0, kMaxDim);
  if (inner.contains("hidden_size_per_layer_input") &&
      inner["hidden_size_per_layer_input"].is_null()) {
    config.ple_width = 0;
  }
  config.ple_vocab = reader.Int("vocab_size_per_layer_input", 262144, 0, kMaxDim);
  if (config.ple_width > 0 && config.ple_vocab == 0) {
    reader.Fail("vocab_size_per_layer_input", "is 0 although hidden_size_per_layer_input is not");
  }
  if (reader.Bool("attention_bias", false)) reader.Fail("attention_bias", "is true; not supported");
  if (const std::string act = reader.String("hidden_activation", "gelu_pytorch_tanh");
      act != "gelu_pytorch_tanh") {
    reader.Fail("hidden_activation",
                absl::StrCat("is \"", act.substr(0, 60), "\"; supported: gelu_pytorch_tanh"));
  }
  if (reader.Bool("enable_moe_block", reader.Bool("use_second_mlp_block", false))) {
    config.experts = reader.Int("num_experts", std::nullopt, 1, 65536);
    config.experts_per_token = reader.Int(
        reader.Find("top_k_experts") != nullptr ? "top_k_experts" : "num_experts_per_tok",
        std::nullopt, 1, 65536);
    config.expert_width =
        reader.Int(reader.Find("moe_intermediate_size") != nullptr ? "moe_intermediate_size"
                                                                   : "expert_intermediate_size",
                   std::nullopt, 1, kMaxDim);
    if (reader.status().ok() && config.experts_per_token > config.experts) {
      reader.Fail("top_k_experts", absl::StrFormat("is %d, more than num_experts = %d",
                                                   config.experts_per_token, config.experts));
    }
  }
  const Json* rope = reader.Find("rope_parameters");
  if (rope != nullptr && !rope->is_object()) reader.Fail("rope_parameters", "is not an object");
  config.rope[kSliding] =
      ReadRope(reader, rope, "sliding_attention", {10000.0f, 1.0f, 1.0f}, config_name);
  config.rope[kFull] = ReadRope(reader, rope, "full_attention", {1e6f, 0.25f, 1.0f}, config_name);
  if (reader.status().ok()) BuildLayers(reader, config, config_name);
  config.bos_id = reader.Int("bos_token_id", 2, 0, std::max(0, config.vocab - 1));
  config.pad_id = reader.Int("pad_token_id", 0, 0, std::max(0, config.vocab - 1));
  if (reader.status().ok()) {
    config.generation.eos_ids = outer.Ids("eos_token_id", config.vocab);
    if (config.generation.eos_ids.empty()) {
      config.generation.eos_ids = reader.Ids("eos_token_id", config.vocab);
    }
    for (const char* key : {"boi_token_id", "boa_token_id", "image_token_id", "audio_token_id",
                            "eoi_token_id", "eoa_token_index", "eoa_token_id", "video_token_id"}) {
      // Text-only checkpoints with a cut vocabulary keep the published ids, which are out of reach.
      const Json* id = outer.Find(key);
      if (id != nullptr && id->is_number_unsigned() &&
          id->get<uint64_t>() < uint64_t(config.vocab)) {
        config.media_ids.push_back(id->get<int32_t>());
      }
    }
    std::sort(config.media_ids.begin(), config.media_ids.end());
    config.media_ids.erase(std::unique(config.media_ids.begin(), config.media_ids.end()),
                           config.media_ids.end());
  }
  for (const Reader* each : {&reader, &outer}) {
    if (!each->status().ok()) return each->status();
  }
  if (absl::Status s = CheckLayers(config, config_name); !s.ok()) return s;

  if (!generation_json.empty()) {
    const std::string name = "generation_config.json";
    absl::StatusOr<Json> generation = ParseObject(generation_json, name);
    if (!generation.ok()) return generation.status();
    Reader generation_reader(*generation, name);
    ReadGeneration(generation_reader, config);
    if (!generation_reader.status().ok()) return generation_reader.status();
  }
  return config;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& directory) {
  const auto read = [](const std::string& path) -> std::optional<std::string> {
    std::ifstream file(path, std::ios::binary);
    if (!file) return std::nullopt;
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  };
  const std::optional<std::string> config = read(directory + "/config.json");
  if (!config.has_value()) {
    return absl::NotFoundError(absl::StrCat(
        directory, "/config.json can not be read; --model wants a Hugging Face model directory"));
  }
  const std::optional<std::string> generation = read(directory + "/generation_config.json");
  return ParseModelConfig(*config, generation.value_or(""), directory + "/config.json");
}

absl::StatusOr<ModelConfig> PublishedShape(std::string_view name) {
  // gemma4.md 1.1; every other key has its default.
  Json text = {{"vocab_size", 262144}, {"final_logit_softcapping", 30.0}};
  const auto set = [&](int hidden, int layers, int heads, int kv_heads, int width, int window,
                       int positions) {
    text["hidden_size"] = hidden;
    text["num_hidden_layers"] = layers;
    text["num_attention_heads"] = heads;
    text["num_key_value_heads"] = kv_heads;
    text["intermediate_size"] = width;
    text["sliding_window"] = window;
    text["max_position_embeddings"] = positions;
  };
  text["model_type"] = "gemma4_text";
  if (name == "e2b") {
    set(1536, 35, 8, 1, 6144, 512, 131072);
    text["num_kv_shared_layers"] = 20;
    text["use_double_wide_mlp"] = true;
    Json types = Json::array();
    for (int i = 0; i < 35; ++i)
      types.push_back(i % 5 == 4 ? "full_attention" : "sliding_attention");
    text["layer_types"] = types;
  } else if (name == "e4b") {
    set(2560, 42, 8, 2, 10240, 512, 131072);
    text["num_kv_shared_layers"] = 18;
  } else if (name == "12b") {
    set(3840, 48, 16, 8, 15360, 1024, 262144);
    text["model_type"] = "gemma4_unified_text";
    text["num_global_key_value_heads"] = 1;
  } else if (name == "26b") {
    set(2816, 30, 16, 8, 2112, 1024, 262144);
    text["num_global_key_value_heads"] = 2;
    text["enable_moe_block"] = true;
    text["num_experts"] = 128;
    text["top_k_experts"] = 8;
    text["moe_intermediate_size"] = 704;
  } else if (name == "31b") {
    set(5376, 60, 32, 16, 21504, 1024, 262144);
    text["num_global_key_value_heads"] = 4;
  } else {
    return absl::InvalidArgumentError(absl::StrFormat(
        "model shape \"%s\" is not known; known: e2b, e4b, 12b, 26b, 31b", std::string(name)));
  }
  if (name == "12b" || name == "26b" || name == "31b") {
    text["attention_k_eq_v"] = true;
    text["hidden_size_per_layer_input"] = 0;
  }
  return ParseModelConfig(text.dump(), "", absl::StrCat("shape ", std::string(name)));
}

}  // namespace tandem::engine
