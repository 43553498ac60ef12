// What a request says without drafts, without a scheduler and alone: row by row, straight from the
// model and the sampler. Everything else has to equal it bit for bit.
#pragma once

#include <vector>

#include "scheduler/request.h"
#include "tests/engine/engine_rig.h"

namespace tandem::testing {

struct PlainChoice {
  std::vector<engine::SampledToken> tokens;  // the id that ended it included
  scheduler::FinishReason reason = scheduler::FinishReason::kAborted;
  int32_t stop_id = -1;
  bool finite = true;  // false: the next row of logits is not, or leaves nothing to draw

  std::vector<int32_t> ids() const;
};

// `max_known` tokens of prompt and output end it.
PlainChoice SpeakAlone(EngineRig& rig, const scheduler::Request& request, int choice,
                       int max_known);

// The log-probabilities that `request` asks for of its own prompt, from position 1 on.
std::vector<engine::SampledToken> ScoreAlone(EngineRig& rig, const scheduler::Request& request);

// Bit for bit: id, log-probability, rank, top.
bool SameToken(const engine::SampledToken& a, const engine::SampledToken& b);

}  // namespace tandem::testing
