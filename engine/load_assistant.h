// Loads an assistant for a target: configuration, weights repacked into huge-page memory.
//
// In        a Hugging Face directory, or a published shape filled with seeded values.
// Not here  whether its tokenizer is the target's (server/cli).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/assistant_config.h"
#include "engine/assistant_weights.h"
#include "engine/load_model.h"
#include "kernels/memory.h"
#include "kernels/ops.h"

namespace tandem::engine {

// A loaded assistant. Const from then on.
struct AssistantModel {
  AssistantConfig config;  // fitted
  AssistantWeights weights;
  size_t checkpoint_tensors = 0;      // tensors in the files, used or not; 0 for dummy weights
  std::vector<std::string> warnings;  // tensors that were found and not needed, one line each

  kernels::Memory memory;  // behind `weights`, of the backend
};

// Matrices are held as `weights`, but for those of SensitiveFormat (weights.h).
// Errors name the file, and the tensor or the key (mtp.md 1.3). An assistant of another target is
// FailedPrecondition (FitToTarget), a damaged file InvalidArgument.
absl::StatusOr<AssistantModel> LoadAssistant(
    const std::string& directory, const ModelConfig& target, const kernels::Ops& ops,
    const LoadProgress& progress, kernels::WeightFormat weights = kernels::WeightFormat::kBf16);

// Everything that LoadAssistant would refuse, but for the lack of memory. Reads the values of
// vectors and of the ordering table, and of a redundant head; no other matrix.
absl::Status CheckAssistant(const std::string& directory, const ModelConfig& target);

// `fitted` filled with values that depend on `seed` and the tensor's name alone; a clustered head
// has its tokens in order of their ids.
absl::StatusOr<AssistantModel> LoadDummyAssistant(
    const AssistantConfig& fitted, uint64_t seed, const kernels::Ops& ops,
    const LoadProgress& progress, kernels::WeightFormat weights = kernels::WeightFormat::kBf16);

}  // namespace tandem::engine
