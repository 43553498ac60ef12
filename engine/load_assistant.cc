#include "engine/load_assistant.h"

#include <cstring>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/checkpoint.h"
#include "engine/checkpoint_tensors.h"
#include "engine/dummy_weights.h"

namespace tandem::engine {
namespace {

const char kEmbedding[] = "model.embed_tokens.weight";
const char kRedundantHead[] = "lm_head.weight";
const char kClusterPrefix[] = "masked_embedding.";

absl::StatusOr<AssistantConfig> ReadFitted(const std::string& directory,
                                           const ModelConfig& target) {
  absl::StatusOr<AssistantConfig> config = ReadAssistantConfig(directory);
  if (!config.ok()) return config.status();
  if (absl::Status s = FitToTarget(target, *config); !s.ok()) {
    return absl::Status(s.code(), absl::StrCat(directory, ": ", std::string(s.message())));
  }
  return config;
}

// Tensors of an assistant are named from the root, in one way.
CheckpointTensors Tensors(const Checkpoint& checkpoint, const std::string& directory) {
  return {checkpoint, directory,
          [](const std::string& name) { return std::vector<std::string>{name}; }};
}

// Config and tensors have to agree on which head this is (mtp.md 1.2, note 4).
absl::Status CheckHeadKind(const Checkpoint& checkpoint, bool clustered,
                           const std::string& directory) {
  const auto found = checkpoint.tensors.lower_bound(kClusterPrefix);
  const bool present =
      found != checkpoint.tensors.end() && absl::StartsWith(found->first, kClusterPrefix);
  if (clustered == present) return absl::OkStatus();
  return absl::InvalidArgumentError(
      clustered
          ? absl::StrCat(directory,
                         ": use_ordered_embeddings is true in config.json, but there is "
                         "no tensor masked_embedding.*; the conversion has lost its "
                         "clusters, use the original checkpoint")
          : absl::StrCat(directory, ": tensor \"", found->first.substr(0, 200),
                         "\" belongs to a clustered head, but use_ordered_embeddings is false in "
                         "config.json; config and weights are of different assistants"));
}

// A head beside the embedding may only be the embedding once more.
absl::Status CheckRedundantHead(const CheckpointTensors& tensors, const AssistantConfig& config) {
  const absl::StatusOr<const Tensor*> head =
      tensors.Expect(kRedundantHead, {config.vocab, config.hidden}, {"BF16"});
  if (!head.ok()) return head.status();
  const Tensor* embedding = tensors.Get(kEmbedding);
  if (std::memcmp((*head)->data, embedding->data, embedding->bytes) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: tensor \"%s\" differs from \"%s\"; the head of a drafter is its embedding, so one of "
      "the two is damaged",
      (*head)->file->path(), kRedundantHead, kEmbedding));
}

// Tensors that no item reads: some are tolerated and told of in `warnings`, the rest are refused.
absl::Status CheckUnclaimed(const CheckpointTensors& tensors, const AssistantConfig& config,
                            const std::vector<WeightItem>& items,
                            std::vector<std::string>& warnings) {
  std::map<std::string, std::pair<std::string, int>> dead;  // by name: projection, layer
  for (int i = 0; i < config.num_layers(); ++i) {
    for (const char* part : {"k_proj", "v_proj", "k_norm"}) {
      dead[absl::StrCat("model.layers.", i, ".self_attn.", part, ".weight")] = {part, i};
    }
  }
  std::map<std::string, std::vector<int>> ignored;  // by projection: layers
  for (const auto& [name, tensor] : tensors.Unclaimed(items, {kRedundantHead})) {
    const auto known = dead.find(name);
    if (known == dead.end()) return UnknownTensor(name, *tensor);
    ignored[known->second.first].push_back(known->second.second);
  }
  for (const auto& [part, layers] : ignored) {
    warnings.push_back(absl::StrFormat(
        "tensors self_attn.%s.weight of layers %s are ignored: a drafter reads its target's keys "
        "and values",
        part, absl::StrJoin(layers, ", ")));
  }
  return absl::OkStatus();
}

// Everything but values, and of those a redundant head.
absl::Status CheckTensors(const Checkpoint& checkpoint, const AssistantConfig& config,
                          const std::string& directory, std::vector<std::string>& warnings) {
  if (absl::Status s = CheckHeadKind(checkpoint, config.clustered, directory); !s.ok()) return s;
  const CheckpointTensors tensors = Tensors(checkpoint, directory);
  AssistantWeights weights;
  std::vector<WeightItem> items;
  LayOutAssistantWeights(config, nullptr, weights, items);
  if (absl::Status s = CheckUnclaimed(tensors, config, items, warnings); !s.ok()) return s;
  if (absl::Status s = tensors.Check(items); !s.ok()) return s;
  if (tensors.Get(kRedundantHead) != nullptr) {
    if (absl::Status s = CheckRedundantHead(tensors, config); !s.ok()) return s;
    warnings.push_back(
        absl::StrFormat("tensor %s is ignored: it equals %s", kRedundantHead, kEmbedding));
  }
  return absl::OkStatus();
}

// Reads what CheckTensors leaves out, for its errors alone.
absl::Status CheckValues(const Checkpoint& checkpoint, const AssistantConfig& config,
                         const std::string& directory) {
  const CheckpointTensors tensors = Tensors(checkpoint, directory);
  const TensorSource source = CheckpointSource(tensors);
  AssistantWeights weights;
  std::vector<WeightItem> items;
  LayOutAssistantWeights(config, nullptr, weights, items);
  std::vector<float> values;
  std::vector<int32_t> ids;
  for (const WeightItem& item : items) {
    absl::Status status;
    if (item.kind == WeightItem::Kind::kVector) {
      values.resize(item.shape[0]);
      status = source.vector(item, values.data());
    } else if (item.kind == WeightItem::Kind::kTokenIds) {
      ids.resize(item.shape[0]);
      status = source.token_ids(item, ids.data());
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<AssistantModel> Fill(const AssistantConfig& config, const TensorSource& source,
                                    const kernels::Ops& ops, const LoadProgress& progress,
                                    kernels::WeightFormat weights) {
  AssistantModel model;
  model.config = config;
  absl::StatusOr<kernels::Memory> memory =
      ops.memory.Allocate(AssistantWeightBytes(config, weights));
  if (!memory.ok()) return memory.status();
  model.memory = *std::move(memory);
  std::vector<WeightItem> items;
  LayOutAssistantWeights(config, model.memory.data(), model.weights, items, weights);
  size_t filled = 0;
  if (absl::Status s = FillWeights(items, source, ops, progress, filled, FillBytes(items));
      !s.ok()) {
    return s;
  }
  return model;
}

}  // namespace

absl::StatusOr<AssistantModel> LoadAssistant(const std::string& directory,
                                             const ModelConfig& target, const kernels::Ops& ops,
                                             const LoadProgress& progress,
                                             kernels::WeightFormat weights) {
  const absl::StatusOr<AssistantConfig> config = ReadFitted(directory, target);
  if (!config.ok()) return config.status();
  const absl::StatusOr<Checkpoint> checkpoint = OpenCheckpoint(directory);
  if (!checkpoint.ok()) return checkpoint.status();
  std::vector<std::string> warnings;
  if (absl::Status s = CheckTensors(*checkpoint, *config, directory, warnings); !s.ok()) return s;
  const CheckpointTensors tensors = Tensors(*checkpoint, directory);
  absl::StatusOr<AssistantModel> model =
      Fill(*config, CheckpointSource(tensors), ops, progress, weights);
  if (!model.ok()) return model.status();
  model->checkpoint_tensors = checkpoint->tensors.size();
  model->warnings = std::move(warnings);
  return model;
}

absl::Status CheckAssistant(const std::string& directory, const ModelConfig& target) {
  const absl::StatusOr<AssistantConfig> config = ReadFitted(directory, target);
  if (!config.ok()) return config.status();
  const absl::StatusOr<Checkpoint> checkpoint = OpenCheckpoint(directory);
  if (!checkpoint.ok()) return checkpoint.status();
  std::vector<std::string> warnings;
  if (absl::Status s = CheckTensors(*checkpoint, *config, directory, warnings); !s.ok()) return s;
  return CheckValues(*checkpoint, *config, directory);
}

absl::StatusOr<AssistantModel> LoadDummyAssistant(const AssistantConfig& fitted, uint64_t seed,
                                                  const kernels::Ops& ops,
                                                  const LoadProgress& progress,
                                                  kernels::WeightFormat weights) {
  return Fill(fitted, DummySource(seed, ops), ops, progress, weights);
}

}  // namespace tandem::engine
