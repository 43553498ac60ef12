#include "server/cli/inspect_assistant.h"

#include <fstream>

#include "absl/strings/str_format.h"
#include "server/cli/assistant_source.h"
#include "server/cli/format.h"
#include "server/cli/memory_plan.h"

namespace tandem::server {
namespace {

const char* LayerKind(const engine::LayerDesc& layer) { return layer.full ? "full" : "sliding"; }

}  // namespace

bool IsAssistant(const std::filesystem::path& directory) {
  std::ifstream file(directory / "config.json", std::ios::binary);
  const auto config = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object() || !config.contains("model_type")) return false;
  const nlohmann::json& type = config["model_type"];
  return type.is_string() && type.get<std::string>().ends_with("_assistant");
}

InspectionLines AssistantLines(const engine::AssistantConfig& config) {
  InspectionLines lines = {
      {"kind", config.model_type},
      {"parameters", ParametersText(CountParameters(config))},
      {"sizes", absl::StrFormat("hidden %d, vocabulary %s, for models of hidden size %d",
                                config.hidden, CountText(config.vocab), config.backbone_hidden)}};
  lines.emplace_back("head", config.clustered
                                 ? absl::StrFormat("clustered: the tokens of %d out of %d clusters",
                                                   config.clusters_per_token, config.num_clusters)
                                 : "dense: every token");
  for (int i = 0; i < config.num_layers(); ++i) {
    const engine::LayerDesc& layer = config.layers[i];
    std::string text = absl::StrFormat("%s: %d query and %d KV heads of %d", LayerKind(layer),
                                       layer.num_q_heads, layer.num_kv_heads, layer.head_dim);
    if (!layer.full) text += absl::StrFormat(", window %d", layer.window);
    if (layer.kv_owner >= 0) text += absl::StrFormat(", reads layer %d", layer.kv_owner);
    lines.emplace_back(i == 0 ? "layers" : "", text);
  }
  lines.emplace_back(
      "guesses", config.draft_tokens > 0
                     ? absl::StrFormat("%d tokens ahead unless told otherwise", config.draft_tokens)
                     : "no number of its own");
  return lines;
}

nlohmann::ordered_json AssistantJson(const engine::AssistantConfig& config) {
  nlohmann::ordered_json json = {{"architecture", config.model_type},
                                 {"parameters", CountParameters(config)},
                                 {"hidden", config.hidden},
                                 {"backbone_hidden", config.backbone_hidden},
                                 {"vocab", config.vocab},
                                 {"head", HeadName(config)},
                                 {"num_clusters", config.num_clusters},
                                 {"clusters_per_token", config.clusters_per_token},
                                 {"draft_tokens", config.draft_tokens},
                                 {"layers", nlohmann::ordered_json::array()}};
  for (const engine::LayerDesc& layer : config.layers) {
    json["layers"].push_back({{"kind", LayerKind(layer)},
                              {"head_dim", layer.head_dim},
                              {"q_heads", layer.num_q_heads},
                              {"kv_heads", layer.num_kv_heads},
                              {"donor", layer.kv_owner},
                              {"mlp_width", layer.mlp_width}});
  }
  return json;
}

std::string FitText(const absl::Status& fit, const engine::AssistantConfig& fitted) {
  if (fit.ok()) return "fits: it reads layers " + DonorsText(fitted, " and ");
  return "does not fit: " + std::string(fit.message());
}

}  // namespace tandem::server
