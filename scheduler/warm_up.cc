#include "scheduler/warm_up.h"

#include <algorithm>
#include <array>
#include <map>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kvcache/block_table.h"

namespace tandem::scheduler {
namespace {

// Passes, of which the median counts: so many, and more while half of the time is left.
constexpr int kPasses = 3;
constexpr int kMostPasses = 9;
constexpr int kChainSteps = 2;  // if allowed: so that the first, which may differ, is not all

constexpr int64_t kShortStepUs = 5'000;  // up to here it matters what the step before left in the
                                         // processor's caches

// A step to measure.
struct Shape {
  int rows = 0;
  int drafting = 0;     // slots that get a draft; as many as rows, or none
  int chain_steps = 0;  // for them
  std::vector<int64_t> step_us = {};
  std::vector<int64_t> draft_us = {};
};

// How many sequences of up to `tokens` tokens the empty pools and the seats hold.
int MaxSequences(const SchedulerConfig& config, const ModelLimits& limits, int tokens) {
  int sequences = config.max_slots;
  for (const int32_t blocks : limits.num_blocks) {
    if (blocks == 0) continue;  // the model has no such layers
    sequences = std::min(sequences, blocks / kvcache::BlocksFor(tokens, limits.block_tokens));
  }
  return sequences;
}

// Small ones first.
std::vector<Shape> Shapes(int max_rows, int max_slots, int chain_steps) {
  std::vector<Shape> shapes;
  for (int octave = 1; octave <= max_rows; octave *= 2) {
    shapes.push_back({.rows = octave});
    if (octave <= max_slots) {
      shapes.push_back({.rows = octave, .drafting = octave, .chain_steps = chain_steps});
    }
    const int between = octave + octave / 2;
    if (between > octave && between <= max_rows) shapes.push_back({.rows = between});
  }
  return shapes;
}

// A batch and what it points into.
struct MadeUpStep {
  engine::SamplingParams greedy = {.temperature = 0.0f};
  std::vector<std::array<std::vector<int32_t>, engine::kNumKvGroups>> tables;  // by sequence
  engine::StepBatch batch;
};

// Sequences of one token with drafts behind it, together `shape.rows` rows; those that get a draft
// have one row.
void Fill(const Shape& shape, int rows_per_sequence, const ModelLimits& limits, MadeUpStep& step) {
  if (shape.drafting > 0) rows_per_sequence = 1;
  const int sequences = (shape.rows + rows_per_sequence - 1) / rows_per_sequence;
  step.tables.resize(sequences);
  engine::StepBatch& batch = step.batch;
  for (int row = 0; row < shape.rows; ++row) {
    // Ids all over the vocabulary: rows of one expert would be cheaper than those of many.
    batch.ids.push_back(static_cast<int32_t>(int64_t{row} * 7919 % limits.vocab_size));
  }
  for (int i = 0; i < sequences; ++i) {
    engine::Segment segment;
    segment.row_begin = shape.rows * i / sequences;
    segment.num_rows = shape.rows * (i + 1) / sequences - segment.row_begin;
    segment.num_drafts = segment.num_rows - 1;
    for (int g = 0; g < engine::kNumKvGroups; ++g) {
      if (limits.num_blocks[g] == 0) continue;
      const int blocks = kvcache::BlocksFor(rows_per_sequence, limits.block_tokens);
      for (int b = 0; b < blocks; ++b) step.tables[i][g].push_back(i * blocks + b);
      segment.block_table[g] = step.tables[i][g];
    }
    batch.segments.push_back(segment);
    const auto ids = std::span<const int32_t>(batch.ids).subspan(segment.row_begin);
    for (int position = 0; position < segment.num_rows; ++position) {
      batch.positions.push_back(position);
      engine::SampleRequest sample;
      sample.row = segment.row_begin + position;
      sample.params = &step.greedy;
      sample.position = position + 1;
      sample.drafted = ids.subspan(1, position);
      batch.samples.push_back(sample);
    }
    if (i >= shape.drafting) continue;
    batch.drafts.push_back(
        {.segment = i, .max_tokens = shape.chain_steps, .prompt = ids.first(1), .output = {}});
  }
}

int64_t Median(std::vector<int64_t> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() - 1) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Medians into a model, each worth what it is made of.
CostModel ModelOf(const std::vector<Shape>& shapes) {
  CostModel model;
  std::map<int, std::vector<int64_t>> by_rows;
  for (const Shape& shape : shapes) {
    std::vector<int64_t>& all = by_rows[shape.rows];
    all.insert(all.end(), shape.step_us.begin(), shape.step_us.end());
  }
  for (const auto& [rows, us] : by_rows) {
    if (!us.empty()) Observe(model, 0, rows, Median(us));
  }
  for (const Shape& shape : shapes) {
    if (shape.draft_us.empty()) continue;
    ObserveDrafting(model, std::vector<int>(shape.drafting, shape.chain_steps),
                    Median(shape.draft_us));
  }
  for (CostCurve* curve : {&model.decode, &model.draft}) {
    for (CostCurve::Point& point : curve->points) point.measurements = kPasses;
  }
  return model;
}

}  // namespace

CostModel MeasureCosts(const engine::RunStep& run_step, const SchedulerConfig& config,
                       const ModelLimits& limits, const Clock& now_us, int64_t budget_us) {
  if (config.max_draft_tokens == 0) return {};
  const int rows_per_sequence =
      std::min(1 + config.max_draft_tokens, MaxSequenceTokens(limits) - 1);
  const int sequences = MaxSequences(config, limits, rows_per_sequence);
  std::vector<Shape> shapes = Shapes(std::min(sequences * rows_per_sequence, config.max_step_rows),
                                     sequences, std::min(kChainSteps, config.max_draft_tokens));
  const int64_t begin_us = now_us();
  for (int pass = 0; pass < kMostPasses; ++pass) {
    if (pass >= kPasses && now_us() - begin_us >= budget_us / 2) break;
    for (Shape& shape : shapes) {
      MadeUpStep step;
      Fill(shape, rows_per_sequence, limits, step);
      for (const bool look : {false, true}) {
        if (!look && pass > 0 && shape.step_us.back() > kShortStepUs) continue;
        engine::StepResult result;
        const int64_t step_begin_us = now_us();
        if (step_begin_us - begin_us >= budget_us) return ModelOf(shapes);
        if (!run_step(step.batch, result).ok()) return ModelOf(shapes);
        if (!look) continue;
        shape.step_us.push_back(now_us() - step_begin_us - result.draft_us);
        if (shape.drafting > 0) shape.draft_us.push_back(result.draft_us);
      }
    }
  }
  return ModelOf(shapes);
}

}  // namespace tandem::scheduler
