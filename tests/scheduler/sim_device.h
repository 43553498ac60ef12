// A device that computes nothing and checks everything: stands in for the engine in simulations.
//
// A token is a function of the ids before it and the choice alone, so every output can be
// predicted without knowing batches, chunks or preemptions. A KV cell remembers which position, id
// and history its row had; a row finds out whether everything it may look at is what its own
// sequence wrote there.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/step.h"
#include "scheduler/config.h"

namespace tandem::scheduler {

// The history of a sequence as one number.
constexpr uint64_t kEmptyHistory = 0x9e3779b97f4a7c15u;
uint64_t Extend(uint64_t history, int32_t id);

// What the device draws after `history`, and the log-probability it reports for `id` there.
int32_t TokenAfter(uint64_t history, int choice, std::span<const int32_t> masked, int vocab_size);
float LogprobAfter(uint64_t history, int32_t id);

struct SimDevice {
  SimDevice(const SchedulerConfig& config, const ModelLimits& limits);

  // As engine::RunStep. Adds to `errors` what is wrong with the batch.
  absl::Status Run(const engine::StepBatch& batch, engine::StepResult& result);
  engine::RunStep AsRunStep();

  struct Cell {
    int position = -1;
    int32_t id = -1;
    uint64_t history = 0;  // with `id`
  };

  SchedulerConfig config;
  ModelLimits limits;
  int64_t now_us = 0;  // the clock of the simulation
  int64_t prompt_row_us = 100;
  int64_t decode_row_us = 300;
  int64_t base_us = 1000;
  int64_t steps = 0;
  int64_t rows = 0;
  std::vector<int> step_prompt_rows;             // per step; 0 for decode steps
  absl::Status next_status;                      // what the next step returns
  std::function<bool(int64_t position)> broken;  // logits at this position are not finite
  std::vector<std::string> errors;               // the first few
  std::array<std::vector<Cell>, engine::kNumKvGroups> cells;  // [blocks * block_tokens]

 private:
  void CheckShape(const engine::StepBatch& batch);
  void CheckTables(const engine::StepBatch& batch);
  // Writes and checks one segment; the history up to each of its rows.
  std::vector<uint64_t> RunSegment(const engine::StepBatch& batch, const engine::Segment& segment);
  Cell* At(const engine::Segment& segment, int group, int position);
  void CheckVisible(const engine::Segment& segment, int group, int first, int last);
  void Error(const std::string& what);
};

}  // namespace tandem::scheduler
