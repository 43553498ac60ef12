// The assistant of a golden target, over the blocks of a rig.
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

// `ops` null: the rig's own.
std::unique_ptr<RigAssistant> LoadRigAssistant(const std::string& variant, EngineRig& rig,
                                               int max_slots, const kernels::Ops* ops = nullptr);

}  // namespace tandem::testing
