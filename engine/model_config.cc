#include "engine/model_config.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/config_reader.h"
#include "engine/text_config.h"

namespace tandem::engine {
namespace {

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

// Gives every layer its owner of K/V, and what else depends on its place.
void PlaceLayers(ConfigReader& reader, const TextConfig& text, ModelConfig& config) {
  config.layers = text.layers;
  const int num_layers = config.num_layers();
  if (text.shared_layers == num_layers) {
    reader.Fail("num_kv_shared_layers", absl::StrFormat("is %d: every layer shares, which only a "
                                                        "drafter does",
                                                        text.shared_layers));
    return;
  }
  config.first_shared = num_layers - text.shared_layers;
  std::array<int, kNumKvGroups> last_owner = {-1, -1};
  std::array<int, kNumKvGroups> owners = {0, 0};
  for (int i = 0; i < num_layers; ++i) {
    LayerDesc& layer = config.layers[i];
    const KvGroup group = layer.group();
    layer.moe = config.experts > 0;
    if (i < config.first_shared) {
      last_owner[group] = i;
      ++owners[group];
    } else if (text.double_wide_mlp) {
      layer.mlp_width *= 2;
    }
    layer.kv_owner = last_owner[group];
    layer.kv_index = owners[group] - 1;
  }
}

void ReadGeneration(ConfigReader& reader, ModelConfig& config) {
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
  return RopeFrequencies(layers, rope, group);
}

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_json,
                                             std::string_view generation_json,
                                             const std::string& config_name) {
  absl::StatusOr<TextConfigFile> file = OpenTextConfig(config_json, config_name);
  if (!file.ok()) return file.status();
  for (const std::string& each : {file->outer_type, file->type}) {
    if (each.empty()) continue;
    if (absl::Status s = CheckModelType(each, config_name); !s.ok()) return s;
  }
  ConfigReader outer(*file->root, config_name);
  ConfigReader reader(*file->text, config_name);

  ModelConfig config;
  const bool unified = file->type.find("unified") != std::string::npos;
  config.model_type = unified ? "gemma4_unified" : "gemma4";
  const TextConfig text = ReadTextConfig(reader, unified, /*ends_full=*/true);
  config.hidden = text.hidden;
  config.vocab = text.vocab;
  config.sliding_window = text.sliding_window;
  config.max_positions = text.max_positions;
  config.rms_eps = text.rms_eps;
  config.logit_softcap = text.logit_softcap;
  config.rope = text.rope;
  config.tied_head = reader.Bool("tie_word_embeddings", true);
  config.ple_width = reader.Int("hidden_size_per_layer_input", unified ? 0 : 256, 0, kMaxDim);
  if (const auto width = file->text->find("hidden_size_per_layer_input");
      width != file->text->end() && width->is_null()) {
    config.ple_width = 0;
  }
  config.ple_vocab = reader.Int("vocab_size_per_layer_input", 262144, 0, kMaxDim);
  if (config.ple_width > 0 && config.ple_vocab == 0) {
    reader.Fail("vocab_size_per_layer_input", "is 0 although hidden_size_per_layer_input is not");
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
  if (reader.status().ok()) PlaceLayers(reader, text, config);
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
  for (const ConfigReader* each : {&reader, &outer}) {
    if (!each->status().ok()) return each->status();
  }
  if (absl::Status s = CheckLayers(config, config_name); !s.ok()) return s;

  if (!generation_json.empty()) {
    const std::string name = "generation_config.json";
    absl::StatusOr<Json> generation = ParseJsonObject(generation_json, name);
    if (!generation.ok()) return generation.status();
    ConfigReader generation_reader(*generation, name);
    ReadGeneration(generation_reader, config);
    if (!generation_reader.status().ok()) return generation_reader.status();
  }
  return config;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& directory) {
  const absl::StatusOr<std::string> config = ReadTextFile(directory + "/config.json");
  if (!config.ok()) {
    return absl::NotFoundError(absl::StrCat(std::string(config.status().message()),
                                            "; --model wants a Hugging Face model directory"));
  }
  const absl::StatusOr<std::string> generation =
      ReadTextFile(directory + "/generation_config.json");
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
