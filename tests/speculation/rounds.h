// Sequences driven by hand over a Runner, as a scheduler drives them: a step verifies what was
// guessed, a rollback moves a length, and the step's end asks for the next guesses.
//
// What a rollback leaves behind is poisoned at once: blocks go back to the rig, dead rows of the
// last block become NaN.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/runner.h"
#include "tests/engine/engine_rig.h"

namespace tandem::testing {

struct Round {
  int drafted = 0;
  int accepted = 0;
  bool operator==(const Round&) const = default;
};

struct DraftedSequence {
  RigSequence sequence;  // ids: the prompt, then what was drawn; rows [0, done) are committed
  engine::SamplingParams params = {.temperature = 0.0f};
  engine::LogprobOptions logprobs = {};
  int choice = 0;
  int max_draft = 0;                // guesses to ask for; never more than `max_known` leaves useful
  int max_known = 1000;             // ids with which it ends
  std::vector<int32_t> draft = {};  // guesses behind ids.back()
  engine::TokenCounts counts = {};  // of prompt and output
  std::vector<int32_t> prompt = {}, output = {};
  std::vector<engine::SampledToken> drawn = {};
  std::vector<Round> rounds = {};  // of steps that drew

  bool ended() const { return static_cast<int>(sequence.ids.size()) >= max_known; }
};

DraftedSequence NewSequence(std::vector<int32_t> prompt, int tokens, int max_draft);

class RoundRig {
 public:
  // `ops` null: the rig's own.
  RoundRig(EngineRig& rig, engine::Propose propose, const kernels::Ops* ops = nullptr);

  // One step: at most `chunk` rows of a prompt, or the newest token and its draft, per sequence.
  // Sequences that have ended are left out.
  void Step(std::span<DraftedSequence* const> sequences, int chunk);
  // Steps until all have ended.
  void Run(std::span<DraftedSequence* const> sequences, int chunk);
  void Run(DraftedSequence& sequence, int chunk);
  // Preempts: nothing of it is stored any more.
  void Drop(DraftedSequence& sequence);

  EngineRig& rig;
  std::function<void(engine::StepBatch&)> tamper;  // for a mistake on purpose
  engine::StepResult result;                       // of the last step

 private:
  void Commit(DraftedSequence& s, const engine::Segment& segment,
              std::span<const engine::SampledToken> tokens);
  void PoisonDeadRows(const RigSequence& sequence);  // of its last block
  std::unique_ptr<engine::Runner> runner_;
};

// The stored K and V rows of all layers and heads of a group at a position, as bytes.
std::vector<std::byte> KvRow(const EngineRig& rig, const RigSequence& sequence,
                             engine::KvGroup group, int position);

}  // namespace tandem::testing
