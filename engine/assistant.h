// The drafter: guesses the next tokens of many sequences at once, with the assistant of the target.
//
//   u = [E[token] * s | g],  x = W_pre u,  layers over the donors' K/V,  z = norm(x),
//   guess = best of head(z),  g' = W_post z
//
// A chain feeds one row per sequence and step, however many rows the target ran: the first step the
// newest token and the target's row that it was drawn from, each later one the last guess and g'.
// The position and the visible K/V rows stay those of the newest token throughout. K/V is read
// through the donors' views in the format that it is stored in, and never written.
//
// Source    mtp.md 1.5 to 1.9, 2.4 (M-coupled). Memory is sized by AssistantRunConfig alone.
// Not here  how many tokens (scheduler/), whether they hold (runner.h).
// Threads   one caller at a time; the caller of the target's runner.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "engine/draft_program.h"
#include "engine/drafter.h"
#include "engine/load_assistant.h"
#include "engine/runner.h"
#include "kernels/ops.h"
#include "kvcache/block_store.h"

namespace tandem::engine {

struct AssistantRunConfig {
  int max_slots = 16;  // sequences in one chain; sizes every buffer. More run as further chains
};

// Shows what an operation left behind to tests and tools: the operation, the step of its chain, for
// each data row the index of its slot, and the rows themselves [slots.size(), dim]. Chosen clusters
// are shown by their ids, rising, their logits in that order; a guess by its id, -1 for none.
using DraftTrace = std::function<void(const DraftOp& op, int step, std::span<const int> slots,
                                      std::span<const float> data)>;

class Assistant {
 public:
  // Everything passed in outlives the assistant; the stores are the target's.
  //   errors  Unimplemented, naming the layer, for a head size or format that no kernel has;
  //           Internal for an assistant that was not fitted to this target
  static absl::StatusOr<std::unique_ptr<Assistant>> Create(
      const AssistantModel& assistant, const Model& target, const kernels::Ops& ops,
      std::array<kvcache::BlockStore*, kNumKvGroups> stores, const AssistantRunConfig& config);
  ~Assistant();

  // Bytes of activation buffers that Create allocates.
  //   operand_bytes  kernels::Ops::operand_bytes
  static size_t ScratchBytes(const AssistantConfig& config, const AssistantRunConfig& run_config,
                             size_t operand_bytes = sizeof(float));

  // engine::Propose. At temperature 0 a guess is the largest logit that may be drawn, else what the
  // target would draw from these logits: same noise, cuts, bias, bans and penalties. A draft ends
  // early, with `finite` false, where its logits hold a NaN or an infinity, as behind a handoff row
  // with one; the other slots never notice. A row's bits depend on its own slot alone.
  int Propose(std::span<const DraftSlot> slots, std::span<Draft> drafts,
              const DraftTrace& trace = nullptr);

  std::span<const DraftOp> program() const;
  const WorkCounters& work() const;

  // Weight bytes that a draft step of so many slots reads at least once, the target's embedding
  // rows included.
  double StepBytes(int slots) const;

 private:
  struct State;
  explicit Assistant(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace tandem::engine
