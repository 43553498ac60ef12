#include "server/cli/loaded_engine.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/kv_layers.h"
#include "engine/kv_self_test.h"
#include "engine/logit_noise.h"
#include "engine/prompt_products.h"
#include "server/cli/built_devices.h"
#include "server/cli/format.h"
#include "server/config/kv_setting.h"
#include "server/config/weight_setting.h"

namespace tandem::server {

using engine::kFull;
using engine::kSliding;

namespace {

absl::StatusOr<engine::AssistantModel> LoadDrafter(const Settings& settings,
                                                   const ModelSource& source,
                                                   LoadedEngine& loaded) {
  const AssistantSource& assistant = *source.assistant;
  if (assistant.dummy()) {
    return engine::LoadDummyAssistant(assistant.config, settings.dummy_seed, loaded.backends.ops(),
                                      nullptr, WeightsOf(settings));
  }
  absl::StatusOr<engine::AssistantModel> model =
      engine::LoadAssistant(assistant.directory.string(), source.config, loaded.backends.ops(),
                            nullptr, WeightsOf(settings));
  if (model.ok()) return model;
  return AssistantTrouble(settings, assistant.directory, model.status());
}

void DescribeDrafter(const Console& console, const Settings& settings, const ModelSource& source) {
  if (!source.assistant.has_value()) {
    const char* const why = settings.spec_mode == "off"      ? "--spec-mode off"
                            : settings.draft_model == "none" ? "--draft-model none"
                                                             : "no assistant/ inside the model";
    console.Note("drafter", absl::StrFormat("none (%s)", why), "loaded=false");
    return;
  }
  const AssistantSource& assistant = *source.assistant;
  const uint64_t parameters = CountParameters(assistant.config);
  console.Note(
      "drafter", AssistantText(assistant),
      absl::StrFormat("loaded=true name=%s layers=%d width=%d head=%s parameters=%d "
                      "donors=%s max_draft=%d mode=%s",
                      assistant.name, assistant.config.num_layers(), assistant.config.hidden,
                      HeadName(assistant.config), parameters, DonorsText(assistant.config, ","),
                      assistant.max_draft_tokens, settings.spec_mode));
}

// What KV is stored as and what that costs, then what there is of it.
void DescribeKv(const Console& console, const Settings& settings, const MemoryPlan& plan) {
  const std::string format = KvText(KvFormatsOf(settings));
  std::string text = format + ": ";
  if (plan.num_blocks[kFull] > 0) {
    text += BytesText(plan.kv.bytes_per_token(kFull)) + " per token";
  }
  if (plan.num_blocks[kSliding] > 0) {
    if (plan.num_blocks[kFull] > 0) text += ", and ";
    text += BytesText(plan.kv.bytes_per_token(kSliding)) + " per token of the window";
  }
  console.Note(
      "kv", text,
      absl::StrFormat("format=\"%s\" full_token_bytes=%d sliding_token_bytes=%d "
                      "full_block_bytes=%d sliding_block_bytes=%d",
                      format, plan.kv.bytes_per_token(kFull), plan.kv.bytes_per_token(kSliding),
                      plan.kv.block_bytes[kFull], plan.kv.block_bytes[kSliding]));
  console.Note(
      "blocks",
      absl::StrFormat("%s sliding + %s full of %d tokens: one sequence of %s, or %d of %s",
                      CountText(plan.num_blocks[kSliding]), CountText(plan.num_blocks[kFull]),
                      settings.block_tokens, CountText(plan.max_context), plan.sequences,
                      CountText(plan.typical_tokens)),
      absl::StrFormat("block_tokens=%d sliding_blocks=%d full_blocks=%d max_context=%d",
                      settings.block_tokens, plan.num_blocks[kSliding], plan.num_blocks[kFull],
                      plan.max_context));
}

// Once, when a layer's keys are rounded so far that its attention may look elsewhere.
// The norms come from the files: the model's may lie on a device.
absl::Status WarnOfKeys(const Console& console, const ModelSource& source,
                        const std::vector<kvcache::KvPair>& pairs) {
  const std::string directory = source.directory.string();
  const absl::StatusOr<engine::Checkpoint> checkpoint = engine::OpenCheckpoint(directory);
  if (!checkpoint.ok()) return checkpoint.status();
  const auto norms = engine::ReadQkNorms(*checkpoint, source.config, directory);
  if (!norms.ok()) return norms.status();
  const std::vector<double> sizes = engine::LogitSizes(source.config, norms->weights);
  int worst = 0;
  const auto noise = [&](int layer) { return sizes[layer] * engine::KeyNoise(pairs[layer].k); };
  for (int i = 1; i < source.config.num_layers(); ++i) {
    if (noise(i) > noise(worst)) worst = i;
  }
  if (noise(worst) <= engine::kLogitNoiseLimit) return absl::OkStatus();
  console.Warn(absl::StrFormat(
      "keys in %s may be too coarse for this model: in layer %d logits of attention are predicted "
      "to be off by %.2f, more than %.2f; --kv-type-k q8 is safer, tandem inspect shows all layers",
      std::string(kvcache::KvFormatName(pairs[worst].k)), worst, noise(worst),
      engine::kLogitNoiseLimit));
  return absl::OkStatus();
}

}  // namespace

MemoryRequest MemoryRequestOf(const Settings& settings, const ModelSource& source, int max_slots) {
  MemoryRequest request = {.max_slots = max_slots,
                           .max_context = settings.max_context,
                           .max_step_rows = settings.max_step_rows,
                           .block_tokens = settings.block_tokens,
                           .kv_formats = KvFormatsOf(settings),
                           .kv_memory = settings.kv_memory,
                           .ple_in_file = !source.dummy(),
                           .weights = WeightsOf(settings)};
  if (source.assistant.has_value()) request.assistant = source.assistant->config;
  return request;
}

MemoryRequest ServingMemory(const Settings& settings, const ModelSource& source) {
  MemoryRequest request = MemoryRequestOf(settings, source, settings.max_slots);
  request.prefix_cache = settings.prefix_cache != "off";
  return request;
}

absl::Status CheckKv(const engine::ModelConfig& config, const kvcache::KvFormats& formats,
                     const kernels::Ops& ops) {
  if (absl::Status s = engine::CheckKvKernels(config, formats, ops); !s.ok()) return s;
  for (const engine::KvGroup group : {kSliding, kFull}) {
    const auto layers = engine::KvLayers(config, group, formats);
    if (!layers.ok()) return layers.status();
    if (absl::Status s = engine::TryKvEncoder(*layers, ops); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LoadedEngine>> LoadEngine(
    const Settings& settings, const ModelSource& source, const MemoryPlan& plan, Backends backends,
    const Console& console, const engine::LoadProgress& progress, const WrapPropose& wrap) {
  auto loaded = std::make_unique<LoadedEngine>();
  loaded->backends = std::move(backends);
  loaded->memory = plan;
  loaded->kv_formats = KvFormatsOf(settings);
  const kernels::Ops& ops = loaded->backends.ops();
  if (absl::Status s = CheckShapes(source, loaded->backends); !s.ok()) return s;
  absl::StatusOr<KvLayouts> layouts =
      KvLayoutsOf(source.config, loaded->kv_formats, settings.block_tokens);
  if (!layouts.ok()) return layouts.status();
  if (absl::Status s = CheckKv(source.config, loaded->kv_formats, ops); !s.ok()) return s;

  if (source.assistant.has_value()) {
    absl::StatusOr<engine::AssistantModel> assistant = LoadDrafter(settings, source, *loaded);
    if (!assistant.ok()) return assistant.status();
    loaded->assistant_model = *std::move(assistant);
    loaded->max_draft_tokens = source.assistant->max_draft_tokens;
    for (const std::string& warning : loaded->assistant_model->warnings) console.Warn(warning);
  }
  const std::unique_ptr<Progress> bar = console.StartProgress();
  const engine::LoadProgress report = [&](size_t done, size_t total) {
    bar->Update(done, total);
    if (progress) progress(done, total);
  };
  absl::StatusOr<engine::Model> model =
      source.dummy()
          ? engine::LoadDummy(source.config, settings.dummy_seed, ops, report, WeightsOf(settings))
          : engine::LoadCheckpoint(source.directory.string(), {.weights = WeightsOf(settings)}, ops,
                                   report);
  bar->Clear();
  if (!model.ok()) return model.status();
  loaded->model = *std::move(model);
  loaded->load_s = bar->elapsed_s();
  if (!source.dummy()) {
    const auto pairs = engine::KvPairs(source.config, loaded->kv_formats);
    if (absl::Status s = WarnOfKeys(console, source, *pairs); !s.ok()) return s;
  }

  if (kernels::DeviceBackend* device = loaded->backends.device.get(); device != nullptr) {
    const std::string prompts =
        device->PreparePrompts(engine::PromptProducts(loaded->model.weights),
                               settings.max_step_rows, kernels::CublasLtPaths(CudaLibraries()));
    console.Note("prompts", prompts, "products=\"" + prompts + "\"");
  }

  std::array<kvcache::BlockStore*, engine::kNumKvGroups> stores = {};
  for (const engine::KvGroup group : {kSliding, kFull}) {
    if (plan.num_blocks[group] == 0) continue;
    absl::StatusOr<kvcache::BlockStore> store = kvcache::BlockStore::Create(
        *std::move((*layouts)[group]), plan.num_blocks[group], ops.memory);
    if (!store.ok()) return store.status();
    loaded->stores[group] = *std::move(store);
    stores[group] = &*loaded->stores[group];
  }
  if (loaded->assistant_model.has_value()) {
    absl::StatusOr<std::unique_ptr<engine::Assistant>> assistant = engine::Assistant::Create(
        *loaded->assistant_model, loaded->model, ops, stores, {.max_slots = plan.max_slots});
    if (!assistant.ok()) {
      return AssistantTrouble(settings, source.assistant->directory, assistant.status());
    }
    loaded->assistant = *std::move(assistant);
  }
  engine::Propose propose = ProposeOf(*loaded);
  if (wrap) propose = wrap(std::move(propose));
  absl::StatusOr<std::unique_ptr<engine::Runner>> runner = engine::Runner::Create(
      loaded->model, ops, stores, {.max_step_rows = settings.max_step_rows}, std::move(propose));
  if (!runner.ok()) return runner.status();
  loaded->runner = *std::move(runner);
  return loaded;
}

engine::Propose ProposeOf(LoadedEngine& engine) {
  if (engine.assistant == nullptr) return nullptr;
  return [assistant = engine.assistant.get()](std::span<const engine::DraftSlot> slots,
                                              std::span<engine::Draft> drafts) {
    return assistant->Propose(slots, drafts);
  };
}

scheduler::ModelLimits LimitsOf(const LoadedEngine& engine) {
  const auto& stores = engine.stores;
  const auto& any = stores[kFull].has_value() ? stores[kFull] : stores[kSliding];
  return {.vocab_size = engine.model.config.vocab,
          .max_context = engine.memory.max_context,
          .window = engine.model.config.sliding_window,
          .block_tokens = any->layout().block_tokens,
          .num_blocks = engine.memory.num_blocks,
          .kv_formats = kvcache::FormatVector(engine.kv_formats, any->layout().block_tokens)};
}

void DescribeStart(const Console& console, const Settings& settings, const ModelSource& source,
                   const Backends& backends, const MemoryPlan& plan) {
  const uint64_t parameters = CountParameters(source.config);
  console.Note(
      "model",
      absl::StrFormat(
          "%s  %s  %s weights  %s parameters  %d layers  vocabulary %s", source.name,
          source.config.model_type, (source.dummy() ? "random " : "") + settings.weights,
          ParametersText(parameters), source.config.num_layers(), CountText(source.config.vocab)),
      absl::StrFormat("name=%s architecture=%s weights=%s parameters=%d layers=%d vocab=%d",
                      source.name, source.config.model_type, settings.weights, parameters,
                      source.config.num_layers(), source.config.vocab));
  DescribeDrafter(console, settings, source);
  const std::string& device = backends.ops().name;
  const std::string& why_cpu = backends.why_cpu;
  console.Note(
      "device", why_cpu.empty() ? device : device + " (" + why_cpu + ")",
      "name=\"" + device + "\"" + (why_cpu.empty() ? "" : " no_device=\"" + why_cpu + "\""));
  console.Note("memory", MemoryText(plan),
               absl::StrFormat("weight_bytes=%d ple_bytes=%d activation_bytes=%d "
                               "drafter_bytes=%d kernel_bytes=%d kv_bytes=%d "
                               "free_bytes=%d",
                               plan.weight_bytes, plan.ple_bytes, plan.activation_bytes,
                               plan.drafter_bytes, plan.own_bytes, plan.kv_bytes, plan.free.bytes));
  DescribeKv(console, settings, plan);
}

}  // namespace tandem::server
