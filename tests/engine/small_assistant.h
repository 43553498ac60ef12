// A small assistant's configuration and targets it fits, for tests to change.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/assistant_config.h"

namespace tandem::testing {

// The config.json of an assistant with a sliding and a full layer. Fits SmallTarget("SF").
nlohmann::json SmallAssistantConfig();

absl::StatusOr<engine::AssistantConfig> ParseAssistant(const nlohmann::json& config,
                                                       const std::string& generation = "");

// A target with these layers, S sliding and F full, the last `shared` of which share K/V. Built by
// hand: the parser makes every target's last layer full.
engine::ModelConfig SmallTarget(const std::string& pattern, int shared = 0);

// The layers of the target that the assistant's read.
std::vector<int> Donors(const engine::AssistantConfig& config);

}  // namespace tandem::testing
