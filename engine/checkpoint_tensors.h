// The tensors of a checkpoint under the names that a model's weights have: whether each is there
// with its shape and type, which ones nobody asked for, and their values.
//
// Not here  the files (checkpoint.h); what a model needs (weights.h, assistant_weights.h).
#pragma once

#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/checkpoint.h"
#include "engine/fill_weights.h"
#include "engine/weight_layout.h"

namespace tandem::engine {

// Borrows the checkpoint.
class CheckpointTensors {
 public:
  // The names that a weight's tensor may have in the files, the usual one first.
  using Spellings = std::function<std::vector<std::string>(const std::string& name)>;

  // `directory` is for messages.
  CheckpointTensors(const Checkpoint& checkpoint, std::string directory, Spellings spellings)
      : checkpoint_(&checkpoint),
        directory_(std::move(directory)),
        spellings_(std::move(spellings)) {}

  // Null when it is missing.
  const Tensor* Get(const std::string& name) const;

  // The tensor, if it has this shape and one of `dtypes`.
  absl::StatusOr<const Tensor*> Expect(const std::string& name, const std::vector<int64_t>& shape,
                                       const std::vector<std::string>& dtypes) const;

  // Whether all that the items read is there, with shape and type.
  absl::Status Check(const std::vector<WeightItem>& items) const;

  // Tensors that neither an item nor `others` names, by their names in the files.
  std::vector<std::pair<std::string, const Tensor*>> Unclaimed(
      const std::vector<WeightItem>& items, const std::vector<std::string>& others) const;

 private:
  const Checkpoint* checkpoint_;
  std::string directory_;
  Spellings spellings_;
};

// The refusal of a tensor that no weight is made from.
absl::Status UnknownTensor(const std::string& name, const Tensor& tensor);

// The values of tensors that Check has found; `tensors` outlives it. Refuses values that are not
// finite in a vector, and token ids that are no permutation.
TensorSource CheckpointSource(const CheckpointTensors& tensors);

}  // namespace tandem::engine
