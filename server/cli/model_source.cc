#include "server/cli/model_source.h"

#include <system_error>

#include "absl/strings/str_format.h"

namespace tandem::server {
namespace {

namespace fs = std::filesystem;

bool IsCheckpoint(const fs::path& directory) {
  std::error_code error;
  return fs::is_regular_file(directory / "config.json", error);
}

// "org/name" as on a model hub, rather than a path.
bool LooksLikeHubName(const std::string& model) {
  const size_t slash = model.find('/');
  return slash != std::string::npos && slash > 0 && slash + 1 < model.size() && model[0] != '.' &&
         model[0] != '~' && model.find('/', slash + 1) == std::string::npos;
}

absl::Status CheckDirectory(const std::string& model) {
  std::error_code error;
  const fs::file_status status = fs::status(model, error);
  if (!fs::exists(status)) {
    std::string message = absl::StrFormat("--model %s: there is no such directory", model);
    if (LooksLikeHubName(model)) {
      message += "; Tandem downloads nothing: fetch it first (hf download " + model +
                 " --local-dir DIR) and give that directory";
    }
    return absl::NotFoundError(message);
  }
  if (!fs::is_directory(status)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--model %s is a file; give the directory that holds config.json, tokenizer.json and the "
        "*.safetensors files",
        model));
  }
  if (!IsCheckpoint(model)) {
    return absl::NotFoundError(absl::StrFormat(
        "--model %s: there is no config.json; a Hugging Face checkpoint directory is expected",
        model));
  }
  return absl::OkStatus();
}

std::string DirectoryName(const fs::path& directory) {
  std::error_code error;
  fs::path path = fs::canonical(directory, error);
  if (error) path = directory;
  return path.filename().string();
}

std::string PublishedName(const engine::ModelConfig& config) {
  for (const char* name : {"e2b", "e4b", "12b", "26b", "31b"}) {
    const auto shape = engine::PublishedShape(name);
    if (shape.ok() && shape->hidden == config.hidden && shape->vocab == config.vocab &&
        shape->num_layers() == config.num_layers()) {
      return name;
    }
  }
  return "";
}

}  // namespace

fs::path ProgramPath() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error);
}

fs::path FindDemoModel(const fs::path& program) {
  const fs::path installed = program.parent_path().parent_path() / "share/tandem/models/demo";
  if (IsCheckpoint(installed)) return installed;
  for (fs::path folder = program.parent_path(); folder != folder.parent_path();
       folder = folder.parent_path()) {
    if (IsCheckpoint(folder / "models/demo")) return folder / "models/demo";
  }
  return {};
}

absl::StatusOr<ModelSource> FindTarget(const Settings& settings) {
  ModelSource source;
  if (settings.load_format == "dummy") {
    absl::StatusOr<engine::ModelConfig> config = engine::PublishedShape(settings.model_shape);
    if (!config.ok()) return config.status();
    source.name = "dummy-" + settings.model_shape;
    source.variant = settings.model_shape;
    source.config = *std::move(config);
    return source;
  }
  if (settings.model.empty()) {
    source.directory = FindDemoModel(ProgramPath());
    if (source.directory.empty()) {
      return absl::NotFoundError(
          "no --model is given and the demo model (models/demo) is not beside this program; give "
          "--model DIR, or --load-format dummy --model-shape e2b for a benchmark");
    }
  } else {
    if (absl::Status s = CheckDirectory(settings.model); !s.ok()) return s;
    source.directory = settings.model;
  }
  absl::StatusOr<engine::ModelConfig> config = engine::ReadModelConfig(source.directory.string());
  if (!config.ok()) return config.status();
  source.name = DirectoryName(source.directory);
  source.variant = PublishedName(*config);
  source.config = *std::move(config);
  return source;
}

AssistedModel Assisted(const ModelSource& source) {
  return {.directory = source.directory,
          .name = source.name,
          .variant = source.variant,
          .config = source.config};
}

absl::StatusOr<ModelSource> FindModel(const Settings& settings) {
  absl::StatusOr<ModelSource> source = FindTarget(settings);
  if (!source.ok()) return source;
  absl::StatusOr<std::optional<AssistantSource>> assistant =
      FindAssistant(settings, Assisted(*source));
  if (!assistant.ok()) return assistant.status();
  source->assistant = *std::move(assistant);
  return source;
}

}  // namespace tandem::server
