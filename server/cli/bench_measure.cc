#include "server/cli/bench_measure.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <random>

#include "absl/strings/str_format.h"
#include "kvcache/block_pool.h"
#include "kvcache/block_table.h"
#include "server/cli/console.h"

namespace tandem::server {
namespace {

double PackedBytes(const kernels::WeightView& weight) {
  if (weight.out == 0) return 0.0;
  return static_cast<double>(kernels::PackedBytes(weight.format, weight.out, weight.in));
}

double LayerBytes(const engine::ModelConfig& config, const engine::LayerWeights& layer, int rows) {
  double bytes = 0.0;
  for (const kernels::WeightView& weight : {layer.qkv, layer.o, layer.gate_up, layer.down,
                                            layer.ple_gate, layer.ple_up, layer.router}) {
    bytes += PackedBytes(weight);
  }
  double expert_bytes = 0.0;
  for (const kernels::WeightView& weight : layer.expert_gate_up)
    expert_bytes += PackedBytes(weight);
  for (const kernels::WeightView& weight : layer.expert_down) expert_bytes += PackedBytes(weight);
  if (expert_bytes > 0) {
    const double missed = 1.0 - static_cast<double>(config.experts_per_token) / config.experts;
    bytes += expert_bytes * (1.0 - std::pow(missed, rows));
  }
  return bytes;
}

// Feeds steps to the runner, with block tables as the scheduler keeps them.
class StepDriver {
 public:
  StepDriver(LoadedEngine& engine, int max_step_rows)
      : engine_(engine), max_step_rows_(max_step_rows), random_(1) {
    for (int group = 0; group < engine::kNumKvGroups; ++group) {
      if (engine.stores[group].has_value()) {
        pools_[group].emplace(engine.stores[group]->num_blocks());
        block_tokens_ = engine.stores[group]->layout().block_tokens;
      }
    }
  }

  // Runs one repetition from empty sequences.
  absl::Status Run(const BenchTest& test) {
    steps_ = 0;
    weight_bytes_ = 0.0;
    sequences_.assign(test.streams, {});
    absl::Status status;
    if (test.prompt_tokens > 0) {
      for (int left = test.prompt_tokens; left > 0 && status.ok();) {
        const int rows = std::min(left, max_step_rows_);
        left -= rows;
        status = Step(rows, left == 0 ? Asking::kLast : Asking::kNone);
      }
    } else {
      for (int i = 0; i < test.generate_tokens && status.ok(); ++i) {
        status = Step(test.rows, Asking::kAll);
      }
    }
    for (Sequence& sequence : sequences_) {
      for (int group = 0; group < engine::kNumKvGroups; ++group) {
        if (pools_[group].has_value()) kvcache::Free(sequence.tables[group], *pools_[group]);
      }
    }
    return status;
  }

  int steps() const { return steps_; }
  double weight_bytes() const { return weight_bytes_; }

 private:
  struct Sequence {
    std::array<kvcache::BlockTable, engine::kNumKvGroups> tables;
    int tokens = 0;
  };

  enum class Asking { kNone, kLast, kAll };  // which rows of a sequence ask for a token

  // `rows` more rows of every sequence.
  absl::Status Step(int rows, Asking asking) {
    const engine::ModelConfig& config = engine_.model.config;
    engine::StepBatch batch;
    std::uniform_int_distribution<int32_t> any_id(0, config.vocab - 1);
    for (Sequence& sequence : sequences_) {
      engine::Segment segment = {.row_begin = static_cast<int>(batch.ids.size()), .num_rows = rows};
      for (int group = 0; group < engine::kNumKvGroups; ++group) {
        if (!pools_[group].has_value()) continue;
        kvcache::BlockTable& table = sequence.tables[group];
        if (!kvcache::Grow(table, *pools_[group], block_tokens_, sequence.tokens + rows)) {
          return absl::ResourceExhaustedError(absl::StrFormat(
              "the KV blocks that fit in memory end at %d streams of %d tokens; lower --streams, "
              "--prompt or --generate",
              sequences_.size(), sequence.tokens + rows));
        }
        segment.block_table[group] = table.blocks;
      }
      for (int i = 0; i < rows; ++i) {
        batch.ids.push_back(any_id(random_));
        batch.positions.push_back(sequence.tokens + i);
        if (asking == Asking::kAll || (asking == Asking::kLast && i + 1 == rows)) {
          batch.samples.push_back({.row = static_cast<int>(batch.ids.size()) - 1,
                                   .params = &greedy_,
                                   .position = sequence.tokens + i + 1});
        }
      }
      sequence.tokens += rows;
      batch.segments.push_back(segment);
    }
    if (absl::Status s = engine_.runner->Run(batch, result_); !s.ok()) return s;
    ++steps_;
    weight_bytes_ +=
        StepWeightBytes(config, engine_.model.weights, static_cast<int>(batch.ids.size()),
                        static_cast<int>(batch.samples.size()));
    if (pools_[engine::kSliding].has_value()) {
      for (Sequence& sequence : sequences_) {
        kvcache::ReleaseBelow(sequence.tables[engine::kSliding], *pools_[engine::kSliding],
                              block_tokens_, sequence.tokens - config.sliding_window + 1);
      }
    }
    return absl::OkStatus();
  }

  LoadedEngine& engine_;
  const int max_step_rows_;
  std::mt19937 random_;
  const engine::SamplingParams greedy_ = {.temperature = 0.0f};
  std::array<std::optional<kvcache::BlockPool>, engine::kNumKvGroups> pools_;
  int block_tokens_ = 0;
  std::vector<Sequence> sequences_;
  engine::StepResult result_;
  int steps_ = 0;
  double weight_bytes_ = 0.0;
};

double MultiplyAdds(const engine::Runner& runner) {
  return static_cast<double>(runner.work().linear_madds) + runner.work().attention_madds;
}

}  // namespace

std::string TestName(const BenchTest& test) {
  if (test.prompt_tokens > 0) return absl::StrFormat("pp%d", test.prompt_tokens);
  if (test.rows > 1) return absl::StrFormat("tg%d of %d", test.generate_tokens, test.rows);
  if (test.streams == 1) return absl::StrFormat("tg%d", test.generate_tokens);
  return absl::StrFormat("tg%d x%d", test.generate_tokens, test.streams);
}

std::vector<int> StreamsOf(const BenchArguments& arguments) {
  if (!arguments.streams.empty()) return arguments.streams;
  return arguments.compare.empty() ? std::vector<int>{1, 16} : std::vector<int>{1, 4, 16, 64};
}

std::vector<BenchTest> PlanVerification(int steps, int most_rows) {
  std::vector<BenchTest> tests;
  for (int rows = 1; rows <= most_rows; ++rows) {
    tests.push_back({.generate_tokens = steps, .rows = rows});
  }
  return tests;
}

std::vector<BenchTest> PlanTests(const BenchArguments& arguments) {
  std::vector<BenchTest> tests;
  for (const int tokens : arguments.prompt) {
    if (tokens > 0) tests.push_back({.prompt_tokens = tokens});
  }
  for (const int tokens : arguments.generate) {
    if (tokens == 0) continue;
    for (const int streams : StreamsOf(arguments)) {
      tests.push_back({.generate_tokens = tokens, .streams = streams});
    }
  }
  return tests;
}

double StepWeightBytes(const engine::ModelConfig& config, const engine::Weights& weights, int rows,
                       int sampled_rows) {
  const double ple_columns = double{1} * config.num_layers() * config.ple_width;
  double bytes = rows * (config.hidden + ple_columns) * sizeof(kernels::Bf16);
  bytes += PackedBytes(weights.ple_context);
  for (int i = 0; i < config.num_layers(); ++i) {
    const int live_rows = i < config.first_shared ? rows : sampled_rows;
    if (live_rows > 0) bytes += LayerBytes(config, weights.layers[i], live_rows);
  }
  if (sampled_rows > 0) bytes += PackedBytes(weights.head);
  return bytes;
}

absl::StatusOr<std::vector<BenchResult>> MeasureTests(
    LoadedEngine& engine, const std::vector<BenchTest>& tests, int repetitions, int max_step_rows,
    const std::function<Yardstick()>& probe, const std::function<void(const BenchResult&)>& done) {
  constexpr int kWarmUpSteps = 2;
  StepDriver driver(engine, max_step_rows);
  std::vector<BenchResult> results;
  for (const BenchTest& test : tests) {
    BenchTest warm_up = test;
    warm_up.prompt_tokens = std::min(warm_up.prompt_tokens, max_step_rows);
    warm_up.generate_tokens = std::min(warm_up.generate_tokens, kWarmUpSteps);
    if (absl::Status s = driver.Run(warm_up); !s.ok()) return s;
    results.push_back({.test = test});
  }
  for (int repetition = 0; repetition < repetitions; ++repetition) {
    for (BenchResult& result : results) {
      result.yardsticks.push_back(probe());
      const double work_before = MultiplyAdds(*engine.runner);
      const double begin_s = MonotonicSeconds();
      if (absl::Status s = driver.Run(result.test); !s.ok()) return s;
      result.seconds.push_back(MonotonicSeconds() - begin_s);
      result.steps = driver.steps();
      result.weight_bytes = driver.weight_bytes();
      result.multiply_adds = MultiplyAdds(*engine.runner) - work_before;
      done(result);
    }
  }
  return results;
}

}  // namespace tandem::server
