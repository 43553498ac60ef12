#include "tests/speculation/rig_assistant.h"

#include <cstdlib>
#include <iostream>
#include <utility>

namespace tandem::testing {
namespace {

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::cerr << "rig assistant: " << value.status() << std::endl;
    std::abort();
  }
  return *std::move(value);
}

}  // namespace

engine::Propose RigAssistant::AsPropose() {
  return [this](std::span<const engine::DraftSlot> slots, std::span<engine::Draft> drafts) {
    return assistant->Propose(slots, drafts);
  };
}

std::unique_ptr<RigAssistant> LoadRigAssistant(const std::string& variant, EngineRig& rig,
                                               int max_slots, const kernels::Ops* ops) {
  return LoadRigAssistantFrom(GoldenDir(variant) + "/assistant", rig, max_slots, ops);
}

std::unique_ptr<RigAssistant> LoadRigAssistantFrom(const std::string& dir, EngineRig& rig,
                                                   int max_slots, const kernels::Ops* ops) {
  auto made = std::make_unique<RigAssistant>();
  made->model =
      Must(engine::LoadAssistant(dir, rig.model.config, rig.ops(), nullptr, rig.config.weights));
  std::array<kvcache::BlockStore*, engine::kNumKvGroups> stores = {};
  for (const engine::KvGroup group : {engine::kSliding, engine::kFull}) {
    stores[group] = rig.stores[group].get();
  }
  made->assistant = Must(engine::Assistant::Create(
      made->model, rig.model, ops != nullptr ? *ops : rig.ops(), stores, {.max_slots = max_slots}));
  return made;
}

}  // namespace tandem::testing
