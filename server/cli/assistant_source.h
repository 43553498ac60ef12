// Which assistant guesses for a model, before anything of it is loaded but its configuration.
//
// Source    mtp.md 1.3 (how it must fit), 7 (how many tokens it guesses).
// Not here  its tokenizer (served_model_facts.h), its tensors (engine/load_assistant.h).
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/assistant_config.h"
#include "engine/model_config.h"
#include "scheduler/request.h"
#include "server/config/settings.h"

namespace tandem::server {

struct AssistantSource {
  std::filesystem::path directory;  // empty: dummy weights
  std::string name;                 // "demo/assistant", "gemma-4-E2B-it-assistant"
  engine::AssistantConfig config;   // fitted to the target
  int max_draft_tokens = 0;         // --spec-max-draft, or its own

  bool dummy() const { return directory.empty(); }
};

// What is known of the model by now.
struct AssistedModel {
  std::filesystem::path directory;  // empty: dummy weights
  std::string name;
  std::string variant;  // published shape; empty: none
  const engine::ModelConfig& config;
};

// Where --draft-model says that the assistant lies: that directory, or with auto `assistant` inside
// the model's if it is there. Empty: there is none, or no directory of it.
std::filesystem::path AssistantDirectory(const Settings& settings,
                                         const std::filesystem::path& model_directory);

// The assistant that the settings mean. None with --spec-mode off and --draft-model none, and with
// auto where the model comes without one.
//   errors  AssistantTrouble for one that is unusable or was made for another model;
//           kInvalidArgument for --spec-mode fixed when there is none
absl::StatusOr<std::optional<AssistantSource>> FindAssistant(const Settings& settings,
                                                             const AssistedModel& model);

// "clustered" or "dense".
std::string HeadName(const engine::AssistantConfig& config);
// The layers of the target that it reads, each once: "13,14".
std::string DonorsText(const engine::AssistantConfig& config, const char* separator);
// "demo/assistant  4 layers of width 64  dense head  0.1 M parameters  reads layers 4 and 5  up to
// 3 tokens at a time"
std::string AssistantText(const AssistantSource& assistant);

// `status` with the option and the directory it is about, and the ways out, unless it has them
// already: another assistant, or --draft-model none.
absl::Status AssistantTrouble(const Settings& settings, const std::filesystem::path& directory,
                              const absl::Status& status);

// What requests get that ask for nothing: --spec-mode and the longest draft; kOff without an
// assistant.
scheduler::Speculation DefaultSpeculation(const Settings& settings,
                                          const std::optional<AssistantSource>& assistant);

}  // namespace tandem::server
