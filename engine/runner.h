// Runs a step: one flattened forward of the target over all rows, the tokens of its last rows,
// drafts verified on the way, and the proposer's next drafts.
//
//   h = E[ids] * s; per layer: attention, MLP or experts, per-layer embedding; final norm; head.
//
// Weights are read once for all rows of a step, or once for given and once for generated tokens
// where the backend has kernels for each. Rows whose output nobody asks for stop at the first
// layer that shares KV: above it nothing is stored, so their values would not be read
// (gemma4.md 2.9). The last norm and the head run on the sampled rows only.
//
// Source    gemma4.md 2. Memory is sized by RunnerConfig alone; nothing grows with context.
// Threads   one caller at a time.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/drafter.h"
#include "engine/load_model.h"
#include "engine/step.h"
#include "kernels/ops.h"
#include "kvcache/block_store.h"

namespace tandem::engine {

struct RunnerConfig {
  int max_step_rows = 512;  // rows of one step; sizes every activation buffer
};

// Shows intermediate rows to tests and tools: a name ("embed", "ple", "layer", "expert_logits",
// "hidden", "logits"), the layer (or -1), the batch row of each data row, and the data
// [rows.size(), dim].
using StepTrace = std::function<void(std::string_view what, int layer, std::span<const int> rows,
                                     std::span<const float> data)>;

// Counts of multiply-adds really done since the runner was made, for reports.
struct WorkCounters {
  uint64_t linear_madds = 0;     // dense and expert products, head included
  uint64_t attention_madds = 0;  // q.K and p.V over visible positions
};

class Runner {
 public:
  // The stores hold the layers of kv_layers.h; one is null for a group the model does not have.
  // Everything passed in outlives the runner.
  //   errors  Unimplemented, naming the layer, for a head size or format that no kernel has
  //   propose  answers StepBatch::drafts; null: there are no drafts
  static absl::StatusOr<std::unique_ptr<Runner>> Create(
      const Model& model, const kernels::Ops& ops,
      std::array<kvcache::BlockStore*, kNumKvGroups> stores, const RunnerConfig& config,
      Propose propose = nullptr);
  ~Runner();

  // Bytes of activation buffers that Create allocates.
  //   operand_bytes  kernels::Ops::operand_bytes
  static size_t ScratchBytes(const ModelConfig& config, const RunnerConfig& runner_config,
                             size_t operand_bytes = sizeof(float));

  // Rows up to max_step_rows. Writes K/V of every row; fills result.tokens in order of
  // batch.samples. A row's bits depend on its own sequence alone.
  absl::Status Run(const StepBatch& batch, StepResult& result, const StepTrace& trace = nullptr);

  const WorkCounters& work() const;

  // K and V rows of a group that were not stored as they came. May be read on any thread.
  const kernels::KvEncodeCounts& encode_counts(KvGroup group) const;

 private:
  struct State;
  explicit Runner(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace tandem::engine
