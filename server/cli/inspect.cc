// `tandem inspect`: what a checkpoint holds and what fits in this machine's memory. Loads nothing.

#include <cctype>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/checkpoint.h"
#include "engine/load_assistant.h"
#include "engine/load_model.h"
#include "engine/logit_noise.h"
#include "server/cli/format.h"
#include "server/cli/inspect_assistant.h"
#include "server/cli/inspect_kv.h"
#include "server/cli/loaded_engine.h"
#include "server/cli/memory_plan.h"
#include "server/cli/model_source.h"
#include "server/cli/text_table.h"
#include "server/cli/verbs.h"
#include "server/config/kv_setting.h"

namespace tandem::server {
namespace {

using engine::kFull;
using engine::kSliding;

// Tensors whose names differ in numbers only.
struct TensorFamily {
  std::string dtype;
  std::vector<int64_t> shape;  // of the first one
  bool same_shape = true;
  int count = 0;
  uint64_t bytes = 0;
};

// "layers.12.mlp.up_proj.weight" as "layers.N.mlp.up_proj.weight".
std::string FamilyName(const std::string& name) {
  std::string family;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool starts_number =
        std::isdigit(static_cast<unsigned char>(name[i])) && (i == 0 || name[i - 1] == '.');
    size_t end = i;
    while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end]))) ++end;
    if (starts_number && (end == name.size() || name[end] == '.')) {
      family += 'N';
      i = end - 1;
    } else {
      family += name[i];
    }
  }
  return family;
}

struct Inventory {
  std::map<std::string, TensorFamily> families;
  std::map<std::string, std::pair<int, uint64_t>> by_dtype;  // tensors, bytes
};

Inventory TakeInventory(const engine::Checkpoint& checkpoint) {
  Inventory inventory;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    TensorFamily& family = inventory.families[FamilyName(name)];
    if (family.count == 0) {
      family.dtype = tensor.dtype;
      family.shape = tensor.shape;
    }
    if (family.dtype != tensor.dtype) family.dtype = "several";
    family.same_shape = family.same_shape && family.shape == tensor.shape;
    ++family.count;
    family.bytes += tensor.bytes;
    auto& [count, bytes] = inventory.by_dtype[tensor.dtype];
    ++count;
    bytes += tensor.bytes;
  }
  return inventory;
}

// "SSSSF SSSSF ...": one letter per layer, a blank behind each full one.
std::string LayerPattern(const engine::ModelConfig& config) {
  std::string pattern;
  for (const engine::LayerDesc& layer : config.layers) pattern += layer.full ? "F " : "S";
  if (!pattern.empty() && pattern.back() == ' ') pattern.pop_back();
  return pattern;
}

const engine::LayerDesc* FirstOf(const engine::ModelConfig& config, engine::KvGroup group) {
  for (const engine::LayerDesc& layer : config.layers) {
    if (layer.group() == group) return &layer;
  }
  return nullptr;
}

std::string GroupName(engine::KvGroup group) { return group == kFull ? "full" : "sliding"; }

void PrintLine(std::string_view label, const std::string& text) {
  std::printf("%-12s%s\n", std::string(label).c_str(), text.c_str());
}

void PrintModel(const ModelSource& source) {
  const engine::ModelConfig& config = source.config;
  PrintLine("model", source.name + (source.dummy() ? " (a shape without a checkpoint)"
                                                   : " (" + source.directory.string() + ")"));
  PrintLine("kind", config.model_type +
                        (source.variant.empty() ? "" : ", the published shape " + source.variant));
  std::string parameters = ParametersText(CountParameters(config));
  if (config.ple_width > 0) {
    parameters += absl::StrFormat(" (%s of them in the per-layer embedding table)",
                                  ParametersText(engine::PleTableBytes(config) / 2));
  }
  PrintLine("parameters", parameters);
  PrintLine("sizes", absl::StrFormat("hidden %d, vocabulary %s, context up to %s", config.hidden,
                                     CountText(config.vocab), CountText(config.max_positions)));
  if (config.experts > 0) {
    PrintLine("experts", absl::StrFormat("%d of %d per token, width %d", config.experts_per_token,
                                         config.experts, config.expert_width));
  }
  PrintLine("layers", absl::StrFormat("%d: %s", config.num_layers(), LayerPattern(config)));
  for (const engine::KvGroup group : {kSliding, kFull}) {
    const engine::LayerDesc* const layer = FirstOf(config, group);
    if (layer == nullptr) continue;
    PrintLine("", absl::StrFormat(
                      "%s %s: %d query and %d KV heads of %d%s%s", group == kFull ? "F" : "S",
                      GroupName(group), layer->num_q_heads, layer->num_kv_heads, layer->head_dim,
                      group == kFull ? "" : absl::StrFormat(", window %d", layer->window),
                      layer->has_v_proj ? "" : ", values from the key projection"));
  }
  if (config.first_shared < config.num_layers()) {
    PrintLine(
        "", absl::StrFormat("layers from %d on share the KV of earlier ones", config.first_shared));
  }
}

void PrintTensors(const Inventory& inventory) {
  for (const auto& [dtype, sum] : inventory.by_dtype) {
    PrintLine("stored", absl::StrFormat("%s: %d tensors, %s", dtype, sum.first,
                                        BytesText(static_cast<double>(sum.second))));
  }
  TextTable table = {
      .columns = {{"tensor"}, {"count", true}, {"type"}, {"shape"}, {"bytes", true}}};
  for (const auto& [name, family] : inventory.families) {
    table.rows.push_back(
        {name, std::to_string(family.count), family.dtype,
         "[" + absl::StrJoin(family.shape, ", ") + "]" + (family.same_shape ? "" : " and others"),
         BytesText(static_cast<double>(family.bytes))});
  }
  std::printf("\n%s\n", MarkdownText(table).c_str());
}

// What is known of the model's KV.
struct KvInspection {
  std::string formats;  // of `tandem serve`
  std::vector<KvChoice> choices;
  std::vector<int> lengths;
  std::vector<double> logit_sizes;  // [layers]; empty without weights
};

KvInspection InspectKv(const Settings& settings, const ModelSource& source,
                       const std::optional<engine::Checkpoint>& checkpoint,
                       const absl::StatusOr<MemoryPlan>& plan) {
  KvInspection kv = {.formats = KvText(KvFormatsOf(settings)),
                     .choices = KvChoices(settings, source.config, plan),
                     .lengths = KvLengths(source.config)};
  if (!checkpoint.has_value()) return kv;
  const auto norms = engine::ReadQkNorms(*checkpoint, source.config, source.directory.string());
  if (norms.ok()) kv.logit_sizes = engine::LogitSizes(source.config, norms->weights);
  return kv;
}

void PrintKvAndFit(const ModelSource& source, const KvInspection& kv, int max_slots,
                   const absl::StatusOr<MemoryPlan>& plan) {
  if (!kv.logit_sizes.empty()) {
    PrintLine("keys", "size of attention's logits by layer, and how far off each format's keys");
    PrintLine("", absl::StrFormat("are predicted to put them; above %.2f is suspect",
                                  engine::kLogitNoiseLimit));
    std::printf("\n%s\n", LogitNoiseText(source.config, kv.logit_sizes).c_str());
  }
  PrintLine("KV", kv.formats);
  PrintLine("",
            "by --kv-type: bytes per token of full and of sliding layers, what a sequence holds");
  PrintLine("", plan.ok() ? absl::StrFormat("of the latter, and how many sequences of a length fit "
                                            "in %s",
                                            BytesText(static_cast<double>(plan->kv_bytes)))
                          : "of the latter");
  std::printf("\n%s\n", KvChoicesText(kv.choices, kv.lengths).c_str());
  if (!plan.ok()) {
    PrintLine("memory", std::string(plan.status().message()));
    return;
  }
  PrintLine("memory", MemoryText(*plan));
  PrintLine("fits", absl::StrFormat("one sequence of %s tokens, or %d of %s (--max-slots %d)",
                                    CountText(plan->max_context), plan->sequences,
                                    CountText(plan->typical_tokens), max_slots));
}

nlohmann::ordered_json InspectionJson(const ModelSource& source,
                                      const std::optional<engine::Checkpoint>& checkpoint,
                                      const KvInspection& kv,
                                      const absl::StatusOr<MemoryPlan>& plan) {
  const engine::ModelConfig& config = source.config;
  nlohmann::ordered_json json = {{"model", source.name},
                                 {"directory", source.directory.string()},
                                 {"architecture", config.model_type},
                                 {"published_shape", source.variant},
                                 {"parameters", CountParameters(config)},
                                 {"hidden", config.hidden},
                                 {"vocab", config.vocab},
                                 {"max_positions", config.max_positions},
                                 {"sliding_window", config.sliding_window},
                                 {"first_shared", config.first_shared},
                                 {"ple_width", config.ple_width},
                                 {"experts", config.experts},
                                 {"experts_per_token", config.experts_per_token},
                                 {"layers", nlohmann::ordered_json::array()},
                                 {"kv_formats", kv.formats},
                                 {"kv", nlohmann::ordered_json::array()},
                                 {"kv_choices", KvChoicesJson(kv.choices, kv.lengths)},
                                 {"logit_noise", LogitNoiseJson(kv.logit_sizes)}};
  for (const engine::LayerDesc& layer : config.layers) {
    json["layers"].push_back({{"kind", GroupName(layer.group())},
                              {"head_dim", layer.head_dim},
                              {"q_heads", layer.num_q_heads},
                              {"kv_heads", layer.num_kv_heads},
                              {"kv_owner", layer.kv_owner},
                              {"mlp_width", layer.mlp_width},
                              {"moe", layer.moe}});
  }
  if (plan.ok()) {
    json["kv"] = KvGroupsJson(*plan);
    json["memory"] = {{"weight_bytes", plan->weight_bytes},
                      {"ple_bytes", plan->ple_bytes},
                      {"activation_bytes", plan->activation_bytes},
                      {"drafter_bytes", plan->drafter_bytes},
                      {"device", plan->on_device ? plan->free.limit.substr(3) : "cpu"},
                      {"kernel_bytes", plan->own_bytes},
                      {"kv_bytes", plan->kv_bytes},
                      {"free_bytes", plan->free.bytes},
                      {"max_context", plan->max_context},
                      {"sequences", plan->sequences},
                      {"tokens_per_sequence", plan->typical_tokens}};
  } else {
    json["memory"] = {{"error", plan.status().message()}};
  }
  if (checkpoint.has_value()) {
    json["tensors"] = nlohmann::ordered_json::array();
    for (const auto& [name, tensor] : checkpoint->tensors) {
      json["tensors"].push_back({{"name", name},
                                 {"type", tensor.dtype},
                                 {"shape", tensor.shape},
                                 {"bytes", tensor.bytes}});
    }
  }
  return json;
}

void PrintJson(const nlohmann::ordered_json& json) {
  std::printf("%s\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

// Finds the model's assistant and looks at its files. On an error there is none.
absl::Status AddDrafter(const Settings& settings, ModelSource& source) {
  absl::StatusOr<std::optional<AssistantSource>> found = FindAssistant(settings, Assisted(source));
  if (!found.ok()) return found.status();
  if (found->has_value() && !(*found)->dummy()) {
    const std::filesystem::path& directory = (*found)->directory;
    absl::Status good = engine::CheckAssistant(directory.string(), source.config);
    if (!good.ok()) return AssistantTrouble(settings, directory, good);
  }
  source.assistant = *std::move(found);
  return absl::OkStatus();
}

// An assistant by itself; with the model that it lies in, if it does, whether they fit.
absl::Status InspectAssistant(const std::filesystem::path& directory, bool as_json) {
  absl::StatusOr<engine::AssistantConfig> config = engine::ReadAssistantConfig(directory.string());
  if (!config.ok()) return config.status();
  const absl::StatusOr<engine::Checkpoint> checkpoint = engine::OpenCheckpoint(directory.string());
  if (!checkpoint.ok()) return checkpoint.status();
  std::string fit = "not looked at: tandem inspect MODEL --draft-model " + directory.string();
  const std::filesystem::path around =
      std::filesystem::absolute(directory / "").lexically_normal().parent_path().parent_path();
  if (const auto target = engine::ReadModelConfig(around.string()); target.ok()) {
    absl::Status good = engine::FitToTarget(*target, *config);
    if (good.ok()) good = engine::CheckAssistant(directory.string(), *target);
    fit = FitText(good, *config) + " (" + around.string() + ")";
  }
  if (as_json) {
    nlohmann::ordered_json json = AssistantJson(*config);
    json["directory"] = directory.string();
    json["model"] = fit;
    PrintJson(json);
    return absl::OkStatus();
  }
  PrintLine("assistant", directory.string());
  for (const auto& [label, text] : AssistantLines(*config)) PrintLine(label, text);
  PrintLine("model", fit);
  PrintTensors(TakeInventory(*checkpoint));
  return absl::OkStatus();
}

}  // namespace

absl::Status Inspect(const Settings& settings) {
  if (!settings.model.empty() && IsAssistant(settings.model)) {
    return InspectAssistant(settings.model, settings.json);
  }
  absl::StatusOr<ModelSource> source = FindTarget(settings);
  if (!source.ok()) return source.status();
  std::optional<engine::Checkpoint> checkpoint;
  if (!source->dummy()) {
    absl::StatusOr<engine::Checkpoint> opened = engine::OpenCheckpoint(source->directory.string());
    if (!opened.ok()) return opened.status();
    checkpoint = *std::move(opened);
  }
  const absl::Status drafter = AddDrafter(settings, *source);
  Settings one_thread = settings;
  one_thread.threads = 1;
  const absl::StatusOr<Backends> backends = MakeBackends(one_thread);
  if (!backends.ok()) return backends.status();
  const absl::StatusOr<MemoryPlan> plan =
      PlanMemoryOf(*backends, source->config, ServingMemory(settings, *source));
  const KvInspection kv = InspectKv(settings, *source, checkpoint, plan);
  if (settings.json) {
    nlohmann::ordered_json json = InspectionJson(*source, checkpoint, kv, plan);
    if (source->assistant.has_value()) {
      json["drafter"] = AssistantJson(source->assistant->config);
      json["drafter"]["name"] = source->assistant->name;
      json["drafter"]["max_draft_tokens"] = source->assistant->max_draft_tokens;
    }
    if (!drafter.ok()) json["drafter"] = {{"error", drafter.message()}};
    PrintJson(json);
    return absl::OkStatus();
  }
  PrintModel(*source);
  if (checkpoint.has_value()) PrintTensors(TakeInventory(*checkpoint));
  if (!drafter.ok()) {
    PrintLine("drafter", std::string(drafter.message()));
  } else {
    PrintLine("drafter",
              source->assistant.has_value() ? AssistantText(*source->assistant) : "none");
  }
  PrintKvAndFit(*source, kv, settings.max_slots, plan);
  return absl::OkStatus();
}

}  // namespace tandem::server
