// An assistant over the blocks of its target's rig.
#pragma once

#include <memory>
#include <string>

#include "engine/assistant.h"
#include "tests/engine/engine_rig.h"

namespace tandem::testing {

struct RigAssistant {
  engine::AssistantModel model;
  std::unique_ptr<engine::Assistant> assistant;

  engine::Propose AsPropose();  // refers to this object
};

// A golden target's, by the variant. `ops` null: the rig's own.
std::unique_ptr<RigAssistant> LoadRigAssistant(const std::string& variant, EngineRig& rig,
                                               int max_slots, const kernels::Ops* ops = nullptr);
// The one in a folder.
std::unique_ptr<RigAssistant> LoadRigAssistantFrom(const std::string& dir, EngineRig& rig,
                                                   int max_slots,
                                                   const kernels::Ops* ops = nullptr);

}  // namespace tandem::testing
