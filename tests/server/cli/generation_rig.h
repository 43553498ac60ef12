// A model that needs no weights, for the benchmarks that go through the scheduler: what it says
// next depends on the last token and its position. Its drafter guesses zeros.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/drafter.h"
#include "engine/step.h"
#include "server/cli/bench_generation.h"

namespace tandem::server {

constexpr int kRigVocab = 97;

inline int32_t RigNext(int32_t id, int32_t position) {
  return (id * 31 + position * 7 + 3) % kRigVocab;
}

inline int GuessZeros(std::span<const engine::DraftSlot> slots, std::span<engine::Draft> drafts) {
  int longest = 0;
  for (size_t i = 0; i < slots.size(); ++i) {
    drafts[i].ids.assign(slots[i].max_tokens, 0);
    longest = std::max(longest, slots[i].max_tokens);
  }
  return longest;
}

// Verifies in order and asks `propose`, as the real one does.
//   flawed  a model whose words change when a draft is verified
inline engine::RunStep RigRunStep(engine::Propose propose, bool flawed = false) {
  return [propose = std::move(propose), flawed](const engine::StepBatch& batch,
                                                engine::StepResult& result) {
    result = {};
    std::vector<std::vector<int32_t>> drawn(batch.segments.size());
    std::vector<const engine::SampleRequest*> last(batch.segments.size());
    std::vector<bool> failed(batch.segments.size(), false);  // a guess did not hold
    for (const engine::SampleRequest& sample : batch.samples) {
      size_t s = 0;
      while (batch.segments[s].row_begin + batch.segments[s].num_rows <= sample.row) ++s;
      if (!drawn[s].empty() && drawn[s].back() != batch.ids[sample.row]) failed[s] = true;
      if (failed[s]) {
        result.tokens.push_back({.id = -1});
        continue;
      }
      int32_t id = RigNext(batch.ids[sample.row], batch.positions[sample.row]);
      if (flawed && batch.segments[s].num_drafts > 0) id = (id + 1) % kRigVocab;
      result.tokens.push_back({.id = id});
      drawn[s].push_back(id);
      last[s] = &sample;
    }
    std::vector<engine::DraftSlot> slots;
    for (const engine::DraftRequest& request : batch.drafts) {
      engine::DraftSlot slot;
      slot.token = drawn[request.segment].back();
      slot.position = static_cast<int32_t>(last[request.segment]->position);
      slot.max_tokens = request.max_tokens;
      slot.next = *last[request.segment];
      slot.prompt = request.prompt;
      slot.output = request.output;
      slot.drawn = drawn[request.segment];
      slots.push_back(slot);
    }
    result.drafts.resize(slots.size());
    if (!slots.empty()) result.draft_steps = propose(slots, result.drafts);
    return absl::OkStatus();
  };
}

inline GenerationEngine RigEngine(engine::RunStep run_step) {
  GenerationEngine engine;
  engine.run_step = std::move(run_step);
  engine.config.max_slots = 8;
  engine.config.max_step_rows = 256;
  engine.config.max_draft_tokens = 4;
  engine.limits = {.vocab_size = kRigVocab,
                   .max_context = 1024,
                   .window = 64,
                   .block_tokens = 16,
                   .num_blocks = {512, 512}};
  engine.sampling.temperature = 0.0f;
  return engine;
}

}  // namespace tandem::server
