// A device that computes nothing and checks everything: stands in for the engine in simulations.
//
// A token is a function of the ids before it, the seed and the choice alone, so every output can be
// predicted without knowing batches, chunks, drafts or preemptions. A KV cell remembers which
// position, id and history its row had, and whether a guess in it was rejected; a row finds out
// whether everything it may look at is what its own sequence, or one with the very same ids, wrote
// there and kept. No row is written into a block that others look at.
//
// Guesses come from a function that a test sets. What is fed to be verified must be what it guessed
// behind the very same ids.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/step.h"
#include "scheduler/config.h"

namespace tandem::scheduler {

// The history of a sequence as one number.
constexpr uint64_t kEmptyHistory = 0x9e3779b97f4a7c15u;
uint64_t Extend(uint64_t history, int32_t id);

// What the device draws, and the log-probability it reports for `id` there.
struct DrawState {
  uint64_t history = 0;
  int choice = 0;
  uint64_t seed = 0;
  int repeats = 0;  // with penalties: how often the newest id occurs before, in all of the sequence
};
int32_t TokenAfter(const DrawState& state, std::span<const int32_t> masked, int vocab_size);
float LogprobAfter(uint64_t history, int32_t id);

// A sequence whose newest token was just drawn.
struct GuessQuery {
  DrawState state;  // `repeats` is not known
  std::span<const int32_t> masked;
  int position = 0;  // of the newest token
  int max_tokens = 0;
  int vocab_size = 0;
};
// Exactly what will be drawn (but with penalties, or where stops cease to be masked).
std::vector<int32_t> RightGuesses(const GuessQuery& query);

struct SimDevice {
  SimDevice(const SchedulerConfig& config, const ModelLimits& limits);

  // As engine::RunStep. Adds to `errors` what is wrong with the batch.
  absl::Status Run(const engine::StepBatch& batch, engine::StepResult& result);
  engine::RunStep AsRunStep();

  struct Cell {
    int position = -1;
    int32_t id = -1;
    uint64_t history = 0;   // with `id`
    bool rejected = false;  // a guess that did not hold
  };

  SchedulerConfig config;
  ModelLimits limits;
  int64_t now_us = 0;  // the clock of the simulation
  int64_t prompt_row_us = 100;
  int64_t decode_row_us = 300;
  int64_t base_us = 1000;
  int64_t draft_step_us = 50;
  int64_t steps = 0;
  int64_t rows = 0;
  int64_t copied_blocks = 0;
  std::vector<int> step_prompt_rows;                      // per step; 0 for decode steps
  absl::Status next_status;                               // what the next step returns
  std::function<bool(int64_t position)> broken;           // logits at this position are not finite
  std::function<bool(int64_t position)> broken_rows;      // K and V at this position are not finite
  std::function<engine::Draft(const GuessQuery&)> guess;  // null: nothing is guessed
  int64_t guessed = 0;                                    // tokens
  std::vector<std::vector<int>> step_drafts;              // per step: guesses fed, by segment
  std::vector<std::vector<int>> step_asked;               // per step: DraftRequest::max_tokens
  std::vector<std::string> errors;                        // the first few
  std::array<std::vector<Cell>, engine::kNumKvGroups> cells;  // [blocks * block_tokens]

 private:
  // The last token that a segment drew, and the history that it was drawn from.
  struct Drawn {
    const engine::SampleRequest* request = nullptr;
    uint64_t history = 0;
    engine::SampledToken token;
  };

  void CheckShape(const engine::StepBatch& batch);
  void CheckGuesses(const engine::StepBatch& batch, const engine::Segment& segment,
                    const std::vector<uint64_t>& history);
  void Copy(const engine::BlockCopy& copy);
  void CheckTables(const engine::StepBatch& batch);
  // Writes and checks one segment; the history up to each of its rows.
  std::vector<uint64_t> RunSegment(const engine::StepBatch& batch, const engine::Segment& segment);
  Cell* At(const engine::Segment& segment, int group, int position);
  void CheckVisible(const engine::Segment& segment, int group, int first, int last);
  engine::SampledToken Draw(const engine::StepBatch& batch, const engine::SampleRequest& request,
                            uint64_t seen);
  void Reject(const engine::Segment& segment, int first, int last);
  void Guess(const engine::StepBatch& batch, const engine::DraftRequest& request,
             const Drawn& drawn, engine::Draft& draft);

  // By history and choice: what was guessed behind it.
  std::map<std::pair<uint64_t, int>, std::vector<std::vector<int32_t>>> guesses_;
  void Error(const std::string& what);
};

}  // namespace tandem::scheduler
