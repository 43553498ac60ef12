// A golden target with its assistant, for tests that draft by hand.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "engine/assistant.h"
#include "tests/engine/engine_rig.h"

namespace tandem::testing {

class AssistantRig {
 public:
  explicit AssistantRig(const std::string& variant, const RigConfig& config = {});

  // The assistant anew: after a change of `model`, of `ops` or of the rig's stores.
  void Create(int max_slots = 16);

  // Runs all rows of the sequence in one step; returns the last one's row after the final norm.
  std::vector<float> Fill(RigSequence& sequence);

  // A slot behind the stored rows of `sequence`, drafting greedily.
  engine::DraftSlot Slot(const RigSequence& sequence, std::span<const float> handoff, int32_t token,
                         int max_tokens) const;

  std::array<kvcache::BlockStore*, engine::kNumKvGroups> stores() const;

  EngineRig rig;
  engine::AssistantModel model;
  kernels::Ops ops;  // the backend's; a test may replace an operation
  std::unique_ptr<engine::Assistant> assistant;
};

// What a call of Propose showed.
class ChainRecord {
 public:
  engine::DraftTrace Trace();

  // The row that operation `name` left for a slot in a step; empty when it did not run.
  std::vector<float> Row(const std::string& name, int step, int slot) const;
  // Logits of a slot in a step, [V]; -inf where the head gave none.
  std::vector<float> Logits(const engine::AssistantModel& model, int step, int slot) const;
  std::vector<int32_t> Clusters(int step, int slot) const;  // rising

  std::vector<std::string> executed;  // names in order
  std::map<std::tuple<std::string, int, int>, std::vector<float>> rows;
};

struct Proposal {
  std::vector<engine::Draft> drafts;
  int steps = 0;
  ChainRecord record;
};
Proposal Draft(engine::Assistant& assistant, std::span<const engine::DraftSlot> slots);

}  // namespace tandem::testing
