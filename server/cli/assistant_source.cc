#include "server/cli/assistant_source.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/cli/format.h"
#include "server/cli/memory_plan.h"

namespace tandem::server {
namespace {

namespace fs = std::filesystem;

constexpr int kUsualDraft = 3;  // of an assistant that does not say, made for no published shape

// mtp.md 7.
constexpr std::array<std::pair<std::string_view, int>, 5> kPublishedDraft = {
    {{"e2b", 2}, {"e4b", 3}, {"12b", 3}, {"26b", 3}, {"31b", 4}}};

bool IsDirectory(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

// "assistant" alone says nothing of the model it belongs to.
std::string NameOf(const fs::path& directory) {
  std::error_code error;
  fs::path path = fs::canonical(directory, error);
  if (error) path = directory;
  const std::string name = path.filename().string();
  return name == "assistant" ? path.parent_path().filename().string() + "/" + name : name;
}

absl::Status CheckDirectory(const fs::path& directory) {
  std::error_code error;
  if (!fs::exists(directory, error)) return absl::NotFoundError("there is no such directory");
  if (!IsDirectory(directory)) {
    return absl::InvalidArgumentError(
        "is a file; give the directory that holds the assistant's config.json and *.safetensors");
  }
  if (!fs::is_regular_file(directory / "config.json", error)) {
    return absl::NotFoundError(
        "there is no config.json; a Hugging Face checkpoint directory is expected");
  }
  return absl::OkStatus();
}

int MaxDraftTokens(const Settings& settings, const std::string& variant,
                   const engine::AssistantConfig& config) {
  if (settings.spec_max_draft > 0) return settings.spec_max_draft;
  if (config.draft_tokens > 0) return std::min(config.draft_tokens, scheduler::kMaxDraftTokens);
  for (const auto& [name, tokens] : kPublishedDraft) {
    if (name == variant) return tokens;
  }
  return kUsualDraft;
}

absl::StatusOr<engine::AssistantConfig> ReadAndFit(const fs::path& directory,
                                                   const AssistedModel& model) {
  if (absl::Status s = CheckDirectory(directory); !s.ok()) return s;
  absl::StatusOr<engine::AssistantConfig> config = engine::ReadAssistantConfig(directory.string());
  if (!config.ok()) return config.status();
  if (absl::Status s = engine::FitToTarget(model.config, *config); !s.ok()) return s;
  return config;
}

absl::StatusOr<AssistantSource> PublishedAssistant(const AssistedModel& model) {
  AssistantSource source;
  absl::StatusOr<engine::AssistantConfig> config = engine::PublishedAssistantShape(model.variant);
  if (!config.ok()) return config.status();
  source.config = *std::move(config);
  source.name = model.name + "-assistant";
  if (absl::Status s = engine::FitToTarget(model.config, source.config); !s.ok()) return s;
  return source;
}

}  // namespace

fs::path AssistantDirectory(const Settings& settings, const fs::path& model_directory) {
  if (settings.draft_model == "none") return {};
  if (settings.draft_model != "auto") return settings.draft_model;
  if (model_directory.empty()) return {};
  std::error_code error;
  const fs::path inside = model_directory / "assistant";
  // Anything of that name is meant, so that what is wrong with it is said.
  return fs::exists(inside, error) ? inside : fs::path();
}

absl::StatusOr<std::optional<AssistantSource>> FindAssistant(const Settings& settings,
                                                             const AssistedModel& model) {
  if (settings.spec_mode == "off" || settings.draft_model == "none") return std::nullopt;
  const fs::path directory = AssistantDirectory(settings, model.directory);
  AssistantSource source;
  if (!directory.empty()) {
    absl::StatusOr<engine::AssistantConfig> config = ReadAndFit(directory, model);
    if (!config.ok()) return AssistantTrouble(settings, directory, config.status());
    source.directory = directory;
    source.name = NameOf(directory);
    source.config = *std::move(config);
  } else if (model.directory.empty()) {
    absl::StatusOr<AssistantSource> published = PublishedAssistant(model);
    if (!published.ok()) return published.status();
    source = *std::move(published);
  } else if (settings.spec_mode == "fixed") {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--spec-mode fixed needs a drafter, but %s has no assistant/ inside; give --draft-model "
        "DIR, or --spec-mode auto to go without where there is none",
        model.directory.string()));
  } else {
    return std::nullopt;
  }
  source.max_draft_tokens = MaxDraftTokens(settings, model.variant, source.config);
  return source;
}

std::string HeadName(const engine::AssistantConfig& config) {
  return config.clustered ? "clustered" : "dense";
}

std::string DonorsText(const engine::AssistantConfig& config, const char* separator) {
  std::set<int> donors;
  for (const engine::LayerDesc& layer : config.layers) donors.insert(layer.kv_owner);
  return absl::StrJoin(donors, separator);
}

std::string AssistantText(const AssistantSource& assistant) {
  const engine::AssistantConfig& config = assistant.config;
  return absl::StrFormat(
      "%s  %d layers of width %d  %s head  %s parameters  reads layers %s  up to %d tokens ahead",
      assistant.name, config.num_layers(), config.hidden, HeadName(config),
      ParametersText(CountParameters(config)), DonorsText(config, " and "),
      assistant.max_draft_tokens);
}

absl::Status AssistantTrouble(const Settings& settings, const fs::path& directory,
                              const absl::Status& status) {
  const bool found = settings.draft_model == "auto";
  std::string message = absl::StrFormat(
      "%s: %s",
      (found ? "the assistant that comes with the model, " : "--draft-model ") + directory.string(),
      std::string(status.message()));
  if (message.find("--draft-model none") == message.npos) {
    message += absl::StrFormat("; %s, or go without: --draft-model none",
                               found ? "fetch it again, or give another one with --draft-model DIR"
                                     : "give the assistant that was made for this model");
  }
  return absl::Status(status.code(), message);
}

scheduler::Speculation DefaultSpeculation(const Settings& settings,
                                          const std::optional<AssistantSource>& assistant) {
  using Mode = scheduler::Speculation::Mode;
  if (!assistant.has_value()) return {.mode = Mode::kOff, .max_draft_tokens = 0};
  return {.mode = settings.spec_mode == "fixed" ? Mode::kFixed : Mode::kAuto,
          .max_draft_tokens = assistant->max_draft_tokens};
}

}  // namespace tandem::server
