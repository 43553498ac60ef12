#include "tests/golden/assistant_rig.h"

#include <cstdlib>
#include <iostream>
#include <limits>

namespace tandem::testing {
namespace {

using engine::kFull;
using engine::kSliding;

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::cerr << "assistant rig: " << value.status() << std::endl;
    std::abort();
  }
  return *std::move(value);
}

const engine::SamplingParams kGreedy{.temperature = 0.0f};

}  // namespace

AssistantRig::AssistantRig(const std::string& variant, const RigConfig& config)
    : rig(GoldenDir(variant) + "/target", config),
      model(Must(engine::LoadAssistant(GoldenDir(variant) + "/assistant", rig.model.config,
                                       rig.ops(), nullptr, config.weights))),
      ops(rig.ops()) {
  Create();
}

void AssistantRig::Create(int max_slots) {
  assistant =
      Must(engine::Assistant::Create(model, rig.model, ops, stores(), {.max_slots = max_slots}));
}

std::array<kvcache::BlockStore*, engine::kNumKvGroups> AssistantRig::stores() const {
  return {rig.stores[kSliding].get(), rig.stores[kFull].get()};
}

std::vector<float> AssistantRig::Fill(RigSequence& sequence) {
  RigRun run{.sequence = &sequence, .rows = static_cast<int>(sequence.ids.size()) - sequence.done};
  rig.Step({&run, 1});
  return run.hidden.back();
}

engine::DraftSlot AssistantRig::Slot(const RigSequence& sequence, std::span<const float> handoff,
                                     int32_t token, int max_tokens) const {
  engine::DraftSlot slot;
  slot.token = token;
  slot.position = sequence.done;
  slot.handoff = std::as_bytes(handoff);
  for (const auto group : {kSliding, kFull}) slot.block_table[group] = sequence.tables[group];
  slot.max_tokens = max_tokens;
  slot.next.params = &kGreedy;
  slot.next.position = sequence.done + 1;
  return slot;
}

engine::DraftTrace ChainRecord::Trace() {
  return [this](const engine::DraftOp& op, int step, std::span<const int> slots,
                std::span<const float> data) {
    executed.push_back(op.name);
    const size_t dim = data.size() / slots.size();
    for (size_t i = 0; i < slots.size(); ++i) {
      rows[{op.name, step, slots[i]}] = {data.begin() + i * dim, data.begin() + (i + 1) * dim};
    }
  };
}

std::vector<float> ChainRecord::Row(const std::string& name, int step, int slot) const {
  const auto at = rows.find({name, step, slot});
  return at == rows.end() ? std::vector<float>{} : at->second;
}

std::vector<int32_t> ChainRecord::Clusters(int step, int slot) const {
  const std::vector<float> row = Row("head.choose_clusters", step, slot);
  return {row.begin(), row.end()};
}

std::vector<float> ChainRecord::Logits(const engine::AssistantModel& model, int step,
                                       int slot) const {
  if (!model.config.clustered) return Row("head.logits", step, slot);
  const std::vector<float> few = Row("head.cluster_logits", step, slot);
  const std::vector<int32_t> clusters = Clusters(step, slot);
  const int size = model.config.cluster_rows();
  std::vector<float> logits(model.config.vocab, -std::numeric_limits<float>::infinity());
  for (size_t i = 0; i < few.size(); ++i) {
    logits[model.weights.cluster_ids[clusters[i / size] * size + i % size]] = few[i];
  }
  return logits;
}

Proposal Draft(engine::Assistant& assistant, std::span<const engine::DraftSlot> slots) {
  Proposal proposal;
  proposal.drafts.resize(slots.size());
  proposal.steps = assistant.Propose(slots, proposal.drafts, proposal.record.Trace());
  return proposal;
}

}  // namespace tandem::testing
