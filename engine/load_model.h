// Loads a target: configuration, weights repacked into huge-page memory, the mapped PLE table.
//
// In        a Hugging Face directory, or a published shape filled with seeded values.
// Not here  the tokenizer (server/text); what memory is left for KV (server/cli).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint.h"
#include "engine/fill_weights.h"
#include "engine/model_config.h"
#include "engine/weights.h"
#include "kernels/memory.h"
#include "kernels/ops.h"

namespace tandem::engine {

// A loaded model. Const from then on.
struct Model {
  ModelConfig config;
  float embed_scale = 1.0f;
  Weights weights;
  size_t checkpoint_tensors = 0;  // tensors in the files, used or not; 0 for dummy weights

  kernels::Memory memory;                          // behind `weights`, of the backend
  kernels::Memory ple_memory;                      // behind weights.ple_table of dummy weights
  std::vector<std::unique_ptr<MappedFile>> files;  // behind weights.ple_table of a checkpoint
};

struct LoadOptions {
  // gemma4.md 2.2: sqrt(hidden) is rounded to bf16 unless this asks for the exact value.
  bool exact_embed_scale = false;
  // What matrices are held as, but for those of SensitiveFormat (weights.h).
  kernels::WeightFormat weights = kernels::WeightFormat::kBf16;
};

// Errors name the file and the tensor.
absl::StatusOr<Model> LoadCheckpoint(const std::string& directory, const LoadOptions& options,
                                     const kernels::Ops& ops, const LoadProgress& progress);

// Whether LoadCheckpoint would find every tensor it needs, with its shape and type, and no other.
// Reads no values. `directory` is for messages.
absl::Status CheckCheckpoint(const Checkpoint& checkpoint, const ModelConfig& config,
                             const std::string& directory);

// The weights of the query and key norms alone; all else in `weights` is empty.
struct QkNorms {
  std::vector<float> memory;
  Weights weights;  // into `memory`
};
// Reads them without a backend. Errors name the file and the tensor.
absl::StatusOr<QkNorms> ReadQkNorms(const Checkpoint& checkpoint, const ModelConfig& config,
                                    const std::string& directory);

// `config` filled with values that depend on `seed` and the tensor's name alone, held as `weights`.
absl::StatusOr<Model> LoadDummy(const ModelConfig& config, uint64_t seed, const kernels::Ops& ops,
                                const LoadProgress& progress,
                                kernels::WeightFormat weights = kernels::WeightFormat::kBf16);

}  // namespace tandem::engine
