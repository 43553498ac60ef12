// What `tandem inspect` says about an assistant: that of a model, or one pointed at by itself.
//
// Not here  which assistant a model has (assistant_source.h), tables of tensors (inspect.cc).
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/assistant_config.h"

namespace tandem::server {

// Whether the directory's config.json is that of an assistant rather than a model.
bool IsAssistant(const std::filesystem::path& directory);

// Label and text of each line. A label that is empty continues the line above.
using InspectionLines = std::vector<std::pair<std::string, std::string>>;
InspectionLines AssistantLines(const engine::AssistantConfig& config);

nlohmann::ordered_json AssistantJson(const engine::AssistantConfig& config);

// "fits: ..." or "does not fit: ...".
//   fit     of FitToTarget or CheckAssistant
//   fitted  to the model, when `fit` is OK
std::string FitText(const absl::Status& fit, const engine::AssistantConfig& fitted);

}  // namespace tandem::server
