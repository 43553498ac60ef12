#include "server/cli/doctor_model.h"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/load_assistant.h"
#include "engine/load_model.h"
#include "server/cli/doctor_machine.h"
#include "server/cli/format.h"
#include "server/cli/loaded_engine.h"
#include "server/cli/memory_plan.h"
#include "server/cli/model_source.h"
#include "server/cli/served_model_facts.h"
#include "server/config/kv_setting.h"

namespace tandem::server {
namespace {

Finding Failed(std::string name, const absl::Status& status, std::string advice) {
  return {Finding::Level::kFail, std::move(name), std::string(status.message()), std::move(advice)};
}

std::string ModelText(const ModelSource& source) {
  return absl::StrFormat("%s: %s, %s parameters, %d layers", source.name, source.config.model_type,
                         ParametersText(CountParameters(source.config)),
                         source.config.num_layers());
}

Finding CheckTensors(const ModelSource& source) {
  const char* const advice =
      "fetch the file again, and compare its size with the source's; only bf16 is supported";
  const std::string directory = source.directory.string();
  const absl::StatusOr<engine::Checkpoint> checkpoint = engine::OpenCheckpoint(directory);
  if (!checkpoint.ok()) return Failed("tensors", checkpoint.status(), advice);
  if (absl::Status s = engine::CheckCheckpoint(*checkpoint, source.config, directory); !s.ok()) {
    return Failed("tensors", s, advice);
  }
  uint64_t bytes = 0;
  for (const auto& [name, tensor] : checkpoint->tensors) bytes += tensor.bytes;
  const size_t files = checkpoint->files.size();
  return {.name = "tensors",
          .text = absl::StrFormat("%d in %d file%s, %s: all that the model needs, all whole",
                                  checkpoint->tensors.size(), files, files == 1 ? "" : "s",
                                  BytesText(static_cast<double>(bytes)))};
}

// What the settings say of a drafter. Its tensors are looked at but for the large ones' values.
Finding CheckDrafter(const Settings& settings, const absl::StatusOr<Tokenizer>& tokenizer,
                     ModelSource& source) {
  const char* const advice =
      "fetch the assistant that was made for this model, or set --draft-model none";
  absl::StatusOr<std::optional<AssistantSource>> found = FindAssistant(settings, Assisted(source));
  if (!found.ok()) return Failed("drafter", found.status(), advice);
  source.assistant = *std::move(found);
  if (!source.assistant.has_value()) {
    return {.name = "drafter", .text = "none; answers come a token at a time"};
  }
  const AssistantSource& assistant = *source.assistant;
  absl::Status good;
  if (!assistant.dummy()) {
    good = engine::CheckAssistant(assistant.directory.string(), source.config);
  }
  if (good.ok() && tokenizer.ok()) good = CheckAssistantTokenizer(source, *tokenizer);
  if (!good.ok()) {
    const Finding finding = Failed("drafter", good, advice);
    source.assistant.reset();  // the rest is looked at without it
    return finding;
  }
  return {.name = "drafter", .text = AssistantText(assistant)};
}

Finding CheckKernels(const ModelSource& source, const Backends& backends) {
  const absl::Status good = CheckShapes(source, backends);
  if (!good.ok()) return Failed("shapes", good, "use --device cpu");
  return {.name = "shapes", .text = backends.ops().name + " has kernels for all of the model's"};
}

Finding CheckKvFormats(const Settings& settings, const ModelSource& source,
                       const Backends& backends) {
  const kvcache::KvFormats formats = KvFormatsOf(settings);
  const absl::Status good = CheckKv(source.config, formats, backends.ops());
  if (!good.ok()) return Failed("kv", good, "choose another --kv-type; tandem inspect lists them");
  return Finding{.name = "kv", .text = KvText(formats) + ": read and written as it should be"};
}

Finding CheckFit(const Settings& settings, const ModelSource& source, const Backends& backends) {
  const absl::StatusOr<MemoryPlan> plan =
      PlanMemoryOf(backends, source.config, ServingMemory(settings, source));
  if (!plan.ok()) {
    // "not enough memory: what is needed; what to do"
    const std::string message(plan.status().message());
    const size_t advice = message.rfind("; ");
    if (advice == std::string::npos) return Failed("fit", plan.status(), "change that option");
    return {Finding::Level::kFail, "fit", message.substr(0, advice), message.substr(advice + 2)};
  }
  return {.name = "fit",
          .text = absl::StrFormat("%s; one sequence of %s tokens, or %d of %s", MemoryText(*plan),
                                  CountText(plan->max_context), plan->sequences,
                                  CountText(plan->typical_tokens))};
}

}  // namespace

std::vector<Finding> CheckModel(const Settings& settings, const Backends* backends) {
  std::vector<Finding> findings;
  absl::StatusOr<ModelSource> source = FindTarget(settings);
  if (!source.ok()) {
    findings.push_back(Failed("model", source.status(),
                              "give --model the directory of a Gemma 4 checkpoint with its "
                              "config.json"));
    return findings;
  }
  findings.push_back({.name = "model", .text = ModelText(*source)});
  const absl::StatusOr<Tokenizer> tokenizer = LoadTokenizer(*source);
  if (tokenizer.ok()) {
    findings.push_back(
        {.name = "tokenizer", .text = CountText(tokenizer->vocab_size()) + " tokens"});
  } else {
    findings.push_back(Failed("tokenizer", tokenizer.status(),
                              "fetch tokenizer.json again from where the model comes from"));
  }
  if (!source->dummy()) {
    findings.push_back(CheckTensors(*source));
    if (std::optional<Finding> disk = CheckFileSystem(source->directory)) {
      findings.push_back(*std::move(disk));
    }
  }
  findings.push_back(CheckDrafter(settings, tokenizer, *source));
  if (backends == nullptr) return findings;
  if (backends->device != nullptr) findings.push_back(CheckKernels(*source, *backends));
  findings.push_back(CheckKvFormats(settings, *source, *backends));
  findings.push_back(CheckFit(settings, *source, *backends));
  return findings;
}

}  // namespace tandem::server
