#include "engine/assistant_config.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/config_reader.h"
#include "engine/text_config.h"

namespace tandem::engine {
namespace {

constexpr int kMaxAssistantTokens = 1024;  // what a file may ask for; the server has its own limit

const char* TypeName(const LayerDesc& layer) { return layer.full ? "full" : "sliding"; }

absl::Status CheckModelType(const TextConfigFile& file, const std::string& name) {
  const auto assistant = [](std::string_view type) {
    return type == "gemma4_assistant" || type == "gemma4_unified_assistant";
  };
  if (!assistant(file.outer_type)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: model_type is \"%s\"; a drafter has gemma4_assistant or gemma4_unified_assistant, so "
        "this can not be the --draft-model",
        name, file.outer_type.substr(0, 60)));
  }
  if (!assistant(file.type) && file.type != "gemma4_text" && file.type != "gemma4_unified_text") {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: text_config.model_type is \"%s\"; supported: gemma4_text, "
                        "gemma4_unified_text",
                        name, file.type.substr(0, 60)));
  }
  return absl::OkStatus();
}

// What Gemma 4 has and its assistants never do (mtp.md 1.3, item 5).
void RefuseForeignFeatures(ConfigReader& reader, const TextConfig& text) {
  const int layers = static_cast<int>(text.layers.size());
  if (text.shared_layers != 0 && text.shared_layers != layers) {
    reader.Fail("num_kv_shared_layers",
                absl::StrFormat("is %d of %d layers; every layer of a drafter reads the keys and "
                                "values of its target, so it is all or left out",
                                text.shared_layers, layers));
  }
  if (const int width = reader.Int("hidden_size_per_layer_input", 0, 0, kMaxDim); width != 0) {
    reader.Fail("hidden_size_per_layer_input",
                absl::StrFormat("is %d; a drafter has no per-layer embeddings (0)", width));
  }
  if (reader.Bool("enable_moe_block", reader.Bool("use_second_mlp_block", false))) {
    reader.Fail("enable_moe_block", "is true; a drafter has no experts (false)");
  }
  if (text.double_wide_mlp) {
    reader.Fail("use_double_wide_mlp", "is true; a drafter has one width (false)");
  }
}

void ReadHead(ConfigReader& outer, AssistantConfig& config) {
  config.clustered = outer.Bool("use_ordered_embeddings", false);
  if (!config.clustered) return;  // published dense heads carry the other two keys, unused
  config.num_clusters = outer.Int("num_centroids", 2048, 1, kMaxDim);
  config.clusters_per_token = outer.Int("centroid_intermediate_top_k", 32, 1, kMaxDim);
  if (!outer.status().ok()) return;
  if (config.vocab % config.num_clusters != 0) {
    outer.Fail("num_centroids",
               absl::StrFormat("is %d, which does not divide vocab_size = %d into equal clusters",
                               config.num_clusters, config.vocab));
  }
  if (config.clusters_per_token > config.num_clusters) {
    outer.Fail("centroid_intermediate_top_k",
               absl::StrFormat("is %d, more than num_centroids = %d", config.clusters_per_token,
                               config.num_clusters));
  }
}

void SortUnique(std::vector<int32_t>& ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

// The donor of layers of a type: the last of that type that writes its own K/V, or -1.
int FindDonor(const ModelConfig& target, bool full) {
  for (int i = target.first_shared - 1; i >= 0; --i) {
    if (target.layers[i].full == full) return i;
  }
  return -1;
}

// Collects what does not fit, each sentence once.
class Mismatches {
 public:
  void Add(std::string what) {
    if (std::find(all_.begin(), all_.end(), what) == all_.end()) all_.push_back(std::move(what));
  }
  template <typename T>
  void Compare(const std::string& field, T ours, const std::string& whose, T theirs) {
    if (ours != theirs) Add(absl::StrCat(field, " is ", ours, ", but ", whose, " ", theirs));
  }
  absl::Status status() const {
    if (all_.empty()) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        "the drafter does not fit this target: ", absl::StrJoin(all_, "; "),
        ". Take the assistant that was published for this target, or none (--draft-model none)"));
  }

 private:
  std::vector<std::string> all_;
};

void CompareLayer(const LayerDesc& layer, const ModelConfig& target, int donor,
                  Mismatches& mismatches) {
  const std::string layers = absl::StrCat(" of its ", TypeName(layer), " layers");
  if (donor < 0) {
    mismatches.Add(absl::StrFormat(
        "it has %s layers (layer_types), but no %s layer of the target writes keys and values",
        TypeName(layer), TypeName(layer)));
    return;
  }
  const LayerDesc& theirs = target.layers[donor];
  const std::string has = absl::StrCat("the target's donor layer ", donor, " has");
  mismatches.Compare("head_dim" + layers, layer.head_dim, has, theirs.head_dim);
  mismatches.Compare("num_key_value_heads" + layers, layer.num_kv_heads, has, theirs.num_kv_heads);
  if (!layer.full) {
    mismatches.Compare("sliding_window", layer.window, "the target's is", theirs.window);
  }
  if (layer.num_q_heads % theirs.num_kv_heads != 0) {
    mismatches.Add(absl::StrFormat(
        "num_attention_heads is %d, no multiple of the %d key/value heads of the target's donor "
        "layer %d",
        layer.num_q_heads, theirs.num_kv_heads, donor));
  }
}

// The donor's keys are turned as the target says; queries have to turn alike.
void CompareRope(const RopeParams& ours, const RopeParams& theirs, const char* type,
                 Mismatches& mismatches) {
  const std::string key = absl::StrCat("rope_parameters.", type, "_attention.");
  mismatches.Compare(key + "rope_theta", ours.theta, "the target's is", theirs.theta);
  mismatches.Compare(key + "partial_rotary_factor", ours.partial_rotary_factor, "the target's is",
                     theirs.partial_rotary_factor);
  mismatches.Compare(key + "factor", ours.factor, "the target's is", theirs.factor);
}

}  // namespace

std::vector<float> AssistantConfig::InvFreq(KvGroup group) const {
  return RopeFrequencies(layers, rope, group);
}

absl::StatusOr<AssistantConfig> ParseAssistantConfig(std::string_view config_json,
                                                     std::string_view generation_json,
                                                     const std::string& name) {
  absl::StatusOr<TextConfigFile> file = OpenTextConfig(config_json, name);
  if (!file.ok()) return file.status();
  if (absl::Status s = CheckModelType(*file, name); !s.ok()) return s;
  ConfigReader outer(*file->root, name);
  ConfigReader reader(*file->text, name);

  AssistantConfig config;
  config.model_type = file->outer_type;
  const bool unified = file->outer_type == "gemma4_unified_assistant";
  TextConfig text = ReadTextConfig(reader, unified, /*ends_full=*/false);
  RefuseForeignFeatures(reader, text);
  if (!reader.status().ok()) return reader.status();
  config.hidden = text.hidden;
  config.vocab = text.vocab;
  config.rms_eps = text.rms_eps;
  config.logit_softcap = text.logit_softcap;
  config.rope = text.rope;
  config.layers = std::move(text.layers);
  for (LayerDesc& layer : config.layers) layer.kv_owner = layer.kv_index = -1;

  config.backbone_hidden = outer.Int("backbone_hidden_size", unified ? 3840 : 1536, 1, kMaxDim);
  if (outer.status().ok() && config.backbone_hidden == config.hidden) {
    outer.Fail("hidden_size",
               absl::StrFormat("is %d, the same as backbone_hidden_size; no drafter is as wide as "
                               "its target: a conversion has widened it, use the original "
                               "checkpoint",
                               config.hidden));
  }
  for (ConfigReader* each : {&outer, &reader}) {
    if (!each->Bool("tie_word_embeddings", true)) {
      each->Fail("tie_word_embeddings", "is false; the head of a drafter is its embedding (true)");
    }
  }
  ReadHead(outer, config);
  for (const ConfigReader* each : {&reader, &outer}) {
    if (!each->status().ok()) return each->status();
  }

  if (!generation_json.empty()) {
    const std::string generation_name = "generation_config.json of " + name;
    absl::StatusOr<Json> generation = ParseJsonObject(generation_json, generation_name);
    if (!generation.ok()) return generation.status();
    ConfigReader generation_reader(*generation, generation_name);
    config.draft_tokens = generation_reader.Int("num_assistant_tokens", 0, 0, kMaxAssistantTokens);
    config.suppressed_ids = generation_reader.Ids("suppress_tokens", config.vocab);
    SortUnique(config.suppressed_ids);
    if (!generation_reader.status().ok()) return generation_reader.status();
  }
  return config;
}

absl::StatusOr<AssistantConfig> ReadAssistantConfig(const std::string& directory) {
  const absl::StatusOr<std::string> config = ReadTextFile(directory + "/config.json");
  if (!config.ok()) {
    return absl::NotFoundError(
        absl::StrCat(std::string(config.status().message()),
                     "; --draft-model wants the Hugging Face directory of an assistant"));
  }
  const absl::StatusOr<std::string> generation =
      ReadTextFile(directory + "/generation_config.json");
  return ParseAssistantConfig(*config, generation.value_or(""), directory + "/config.json");
}

absl::StatusOr<AssistantConfig> PublishedAssistantShape(std::string_view name) {
  // mtp.md 1.2; every other key has its default.
  Json text = {{"model_type", "gemma4_text"},
               {"vocab_size", 262144},
               {"num_hidden_layers", 4},
               {"num_kv_shared_layers", 4},
               {"layer_types",
                {"sliding_attention", "sliding_attention", "sliding_attention", "full_attention"}}};
  Json root = {{"model_type", "gemma4_assistant"}};
  const auto set = [&](int backbone, int hidden, int width, int heads, int kv_heads,
                       int full_kv_heads, int window) {
    root["backbone_hidden_size"] = backbone;
    text["hidden_size"] = hidden;
    text["intermediate_size"] = width;
    text["num_attention_heads"] = heads;
    text["num_key_value_heads"] = kv_heads;
    text["num_global_key_value_heads"] = full_kv_heads;
    text["attention_k_eq_v"] = full_kv_heads != kv_heads;
    text["sliding_window"] = window;
    root["use_ordered_embeddings"] = full_kv_heads == kv_heads;
  };
  if (name == "e2b") {
    set(1536, 256, 2048, 4, 1, 1, 512);
  } else if (name == "e4b") {
    set(2560, 256, 2048, 4, 2, 2, 512);
  } else if (name == "12b") {
    set(3840, 1024, 8192, 16, 8, 1, 1024);
    root["model_type"] = "gemma4_unified_assistant";
    text["model_type"] = "gemma4_unified_text";
  } else if (name == "26b") {
    set(2816, 1024, 8192, 16, 8, 2, 1024);
  } else if (name == "31b") {
    set(5376, 1024, 8192, 32, 16, 4, 1024);
  } else {
    return absl::InvalidArgumentError(absl::StrFormat(
        "assistant shape \"%s\" is not known; known: e2b, e4b, 12b, 26b, 31b", std::string(name)));
  }
  root["text_config"] = text;
  return ParseAssistantConfig(root.dump(), "", absl::StrCat("assistant shape ", std::string(name)));
}

absl::Status FitToTarget(const ModelConfig& target, AssistantConfig& assistant) {
  Mismatches mismatches;
  mismatches.Compare("backbone_hidden_size", assistant.backbone_hidden,
                     "the target's hidden_size is", target.hidden);
  mismatches.Compare("vocab_size", assistant.vocab, "the target's is", target.vocab);
  std::vector<LayerDesc> layers = assistant.layers;
  for (LayerDesc& layer : layers) {
    const int donor = FindDonor(target, layer.full);
    CompareLayer(layer, target, donor, mismatches);
    if (donor < 0) continue;
    layer.kv_owner = donor;
    layer.kv_index = target.layers[donor].kv_index;
    CompareRope(assistant.rope[layer.group()], target.rope[layer.group()], TypeName(layer),
                mismatches);
  }
  if (absl::Status s = mismatches.status(); !s.ok()) return s;
  assistant.layers = std::move(layers);
  const std::vector<int32_t>& never = target.generation.suppressed_ids;
  assistant.suppressed_ids.insert(assistant.suppressed_ids.end(), never.begin(), never.end());
  SortUnique(assistant.suppressed_ids);
  return absl::OkStatus();
}

}  // namespace tandem::engine
