#include "engine/load_model.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint_tensors.h"
#include "engine/dummy_weights.h"

namespace tandem::engine {
namespace {

using kernels::Bf16;

const char kPleTable[] = "embed_tokens_per_layer.weight";

absl::StatusOr<Model> Prepare(const ModelConfig& config, const LoadOptions& options,
                              const kernels::MemorySource& source, std::vector<WeightItem>& items) {
  Model model;
  model.config = config;
  const float scale = std::sqrt(static_cast<float>(config.hidden));
  model.embed_scale = options.exact_embed_scale ? scale : ToFloat(kernels::ToBf16(scale));
  absl::StatusOr<kernels::Memory> memory = source.Allocate(WeightBytes(config, options.weights));
  if (!memory.ok()) return memory.status();
  model.memory = *std::move(memory);
  LayOutWeights(model.config, model.memory.data(), model.weights, items, options.weights);
  return model;
}

// What stands before the names of a target's text tensors in this checkpoint.
absl::StatusOr<std::string> FindPrefix(const Checkpoint& checkpoint, const std::string& directory) {
  for (const char* prefix :
       {"model.language_model.", "language_model.model.", "language_model.", "model."}) {
    if (checkpoint.tensors.contains(absl::StrCat(prefix, "embed_tokens.weight"))) return prefix;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      directory,
      ": no tensor \"model.language_model.embed_tokens.weight\" (nor under the prefixes "
      "language_model.model., language_model., model.); not a Gemma 4 text model"));
}

CheckpointTensors::Spellings TargetSpellings(const std::string& prefix) {
  return [prefix](const std::string& name) {
    if (name == "lm_head.weight") {
      return std::vector<std::string>{name, "language_model.lm_head.weight"};
    }
    std::vector<std::string> names = {prefix + name};
    // Pre-release checkpoints keep the experts and their scale under "moe.".
    for (const char* released : {".experts.", ".router.per_expert_scale"}) {
      if (const size_t at = name.find(released); at != std::string::npos) {
        const std::string_view behind = released == std::string_view(".experts.")
                                            ? std::string_view(name).substr(at + 9)
                                            : std::string_view("per_expert_scale");
        names.push_back(absl::StrCat(prefix, name.substr(0, at), ".moe.", std::string(behind)));
      }
    }
    return names;
  };
}

bool IsMultimodal(const std::string& name) {
  for (const char* prefix : {"model.vision_tower.", "model.audio_tower.", "model.embed_vision.",
                             "model.embed_audio.", "model.vision_embedder."}) {
    if (absl::StartsWith(name, prefix)) return true;
  }
  return false;
}

// Everything under the text prefix must be known (gemma4.md 3.1).
absl::Status CheckNothingUnknown(const CheckpointTensors& tensors, const std::string& prefix,
                                 const ModelConfig& config, const std::vector<WeightItem>& items) {
  std::vector<std::string> others = {"lm_head.weight"};  // equals the embedding when tied
  if (config.ple_width > 0) others.push_back(kPleTable);
  for (int i = config.first_shared; i < config.num_layers(); ++i) {  // dead weights
    for (const char* dead : {"k_proj.weight", "v_proj.weight", "k_norm.weight"}) {
      others.push_back(absl::StrCat("layers.", i, ".self_attn.", dead));
    }
  }
  for (const auto& [name, tensor] : tensors.Unclaimed(items, others)) {
    if (absl::StartsWith(name, prefix) && !IsMultimodal(name)) return UnknownTensor(name, *tensor);
  }
  return absl::OkStatus();
}

// The per-layer embedding table of a model that has one.
absl::StatusOr<const Tensor*> PleTable(const CheckpointTensors& tensors,
                                       const ModelConfig& config) {
  return tensors.Expect(
      kPleTable, {config.ple_vocab, int64_t{config.num_layers()} * config.ple_width}, {"BF16"});
}

}  // namespace

absl::StatusOr<Model> LoadCheckpoint(const std::string& directory, const LoadOptions& options,
                                     const kernels::Ops& ops, const LoadProgress& progress) {
  absl::StatusOr<ModelConfig> config = ReadModelConfig(directory);
  if (!config.ok()) return config.status();
  absl::StatusOr<Checkpoint> checkpoint = OpenCheckpoint(directory);
  if (!checkpoint.ok()) return checkpoint.status();
  if (absl::Status s = CheckCheckpoint(*checkpoint, *config, directory); !s.ok()) return s;
  const std::string prefix = *FindPrefix(*checkpoint, directory);
  const CheckpointTensors tensors(*checkpoint, directory, TargetSpellings(prefix));

  std::vector<WeightItem> items;
  absl::StatusOr<Model> model = Prepare(*config, options, ops.memory, items);
  if (!model.ok()) return model.status();
  size_t filled = 0;
  if (absl::Status s =
          FillWeights(items, CheckpointSource(tensors), ops, progress, filled, FillBytes(items));
      !s.ok()) {
    return s;
  }

  model->checkpoint_tensors = checkpoint->tensors.size();
  if (config->ple_width > 0) {
    // Rows are gathered a few per step: the table stays in its file, backed by the page cache.
    const Tensor* table = tensors.Get(kPleTable);
    model->weights.ple_table = reinterpret_cast<const Bf16*>(table->data);
    for (std::unique_ptr<MappedFile>& file : checkpoint->files) {
      if (file.get() == table->file) model->files.push_back(std::move(file));
    }
  }
  return model;
}

absl::Status CheckCheckpoint(const Checkpoint& checkpoint, const ModelConfig& config,
                             const std::string& directory) {
  const absl::StatusOr<std::string> prefix = FindPrefix(checkpoint, directory);
  if (!prefix.ok()) return prefix.status();
  const CheckpointTensors tensors(checkpoint, directory, TargetSpellings(*prefix));
  Weights weights;
  std::vector<WeightItem> items;
  LayOutWeights(config, nullptr, weights, items);
  if (absl::Status s = CheckNothingUnknown(tensors, *prefix, config, items); !s.ok()) return s;
  if (config.ple_width > 0) {
    if (absl::StatusOr<const Tensor*> table = PleTable(tensors, config); !table.ok()) {
      return table.status();
    }
  }
  return tensors.Check(items);
}

absl::StatusOr<QkNorms> ReadQkNorms(const Checkpoint& checkpoint, const ModelConfig& config,
                                    const std::string& directory) {
  const absl::StatusOr<std::string> prefix = FindPrefix(checkpoint, directory);
  if (!prefix.ok()) return prefix.status();
  const CheckpointTensors tensors(checkpoint, directory, TargetSpellings(*prefix));
  const TensorSource source = CheckpointSource(tensors);
  QkNorms norms;
  norms.weights.layers.resize(config.num_layers());
  size_t size = 0;
  for (const LayerDesc& layer : config.layers) size += 2 * layer.head_dim;
  norms.memory.resize(size);
  float* values = norms.memory.data();
  const auto read = [&](int layer, const char* norm, const float*& place) {
    const int dim = config.layers[layer].head_dim;
    const WeightItem item = {.kind = WeightItem::Kind::kVector,
                             .name = absl::StrCat("layers.", layer, ".self_attn.", norm),
                             .shape = {dim}};
    if (absl::Status s = tensors.Check({item}); !s.ok()) return s;
    place = values;
    values += dim;
    return source.vector(item, values - dim);
  };
  for (int i = 0; i < config.num_layers(); ++i) {
    LayerWeights& layer = norms.weights.layers[i];
    if (absl::Status s = read(i, "q_norm.weight", layer.q_norm); !s.ok()) return s;
    if (config.layers[i].kv_owner != i) continue;
    if (absl::Status s = read(i, "k_norm.weight", layer.k_norm); !s.ok()) return s;
  }
  return norms;
}

absl::StatusOr<Model> LoadDummy(const ModelConfig& config, uint64_t seed, const kernels::Ops& ops,
                                const LoadProgress& progress, kernels::WeightFormat weights) {
  std::vector<WeightItem> items;
  absl::StatusOr<Model> model = Prepare(config, {.weights = weights}, ops.memory, items);
  if (!model.ok()) return model.status();
  const size_t ple_bytes = PleTableBytes(config);
  size_t filled = 0;
  const size_t total = FillBytes(items) + ple_bytes;
  if (absl::Status s = FillWeights(items, DummySource(seed, ops), ops, progress, filled, total);
      !s.ok()) {
    return s;
  }

  if (ple_bytes > 0) {
    absl::StatusOr<kernels::Memory> memory = kernels::HostMemory().Allocate(ple_bytes);
    if (!memory.ok()) return memory.status();
    model->ple_memory = *std::move(memory);
    Bf16* table = reinterpret_cast<Bf16*>(model->ple_memory.data());
    const size_t count = ple_bytes / sizeof(Bf16);
    const size_t chunk = kFillChunkBytes / sizeof(Bf16);
    for (size_t first = 0; first < count; first += chunk) {
      const size_t size = std::min(chunk, count - first);
      FillDummyValues(kPleTable, seed, first, size, config.ple_width, ops, table + first);
      filled += size * sizeof(Bf16);
      if (progress) progress(filled, total);
    }
    model->weights.ple_table = table;
  }
  return model;
}

}  // namespace tandem::engine
