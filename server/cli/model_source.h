// Which model the settings mean, before anything of it is loaded but its configuration.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "server/cli/assistant_source.h"
#include "server/config/settings.h"

namespace tandem::server {

struct ModelSource {
  std::filesystem::path directory;  // empty: dummy weights
  std::string name;                 // "demo", "gemma-4-E2B-it", "dummy-e2b"
  std::string variant;              // published shape it equals, such as "e2b"; empty: none
  engine::ModelConfig config;
  std::optional<AssistantSource> assistant;  // that guesses for it

  bool dummy() const { return directory.empty(); }
};

// --model, else the shape of --load-format dummy, else the demo model. Without its assistant.
//   errors  kNotFound when there is no such directory, or no demo model; kInvalidArgument when it
//           is no checkpoint, or its configuration is unusable
absl::StatusOr<ModelSource> FindTarget(const Settings& settings);

// The same with its assistant.
//   errors  those of FindTarget and FindAssistant
absl::StatusOr<ModelSource> FindModel(const Settings& settings);

AssistedModel Assisted(const ModelSource& source);

// The demo model that belongs to a program: ../share/tandem/models/demo beside an installed one,
// models/demo of the source tree around a built one. Empty when there is none.
std::filesystem::path FindDemoModel(const std::filesystem::path& program);

// The running program.
std::filesystem::path ProgramPath();

}  // namespace tandem::server
