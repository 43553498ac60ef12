#include "server/cli/running_model.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/cpu/thread_team.h"
#include "scheduler/warm_up.h"

namespace tandem::server {
namespace {

constexpr int64_t kMeasureUs = 1'000'000;  // of warm-up steps; a large model takes what one needs

engine::RunStep RunStepOf(LoadedEngine& engine) {
  return
      [runner = engine.runner.get()](const engine::StepBatch& batch, engine::StepResult& result) {
        return runner->Run(batch, result);
      };
}

absl::Status CheckFirstToken(LoadedEngine& engine) {
  const int32_t block = 0;
  engine::Segment segment = {.row_begin = 0, .num_rows = 1};
  for (int group = 0; group < engine::kNumKvGroups; ++group) {
    if (engine.stores[group].has_value()) segment.block_table[group] = {&block, 1};
  }
  const engine::SamplingParams greedy = {.temperature = 0.0f};
  engine::StepBatch batch;
  batch.ids = {engine.model.config.bos_id};
  batch.positions = {0};
  batch.segments = {segment};
  batch.samples = {{.row = 0, .params = &greedy, .position = 1}};
  engine::StepResult result;
  if (absl::Status s = engine.runner->Run(batch, result); !s.ok()) return s;
  if (result.tokens.at(0).finite) return absl::OkStatus();
  return absl::DataLossError(
      "the model's first token has no finite logit; are the weights damaged?");
}

// The largest step of given tokens with a generated one behind them. A device then holds all memory
// that steps take: what it can not have shows here and not in somebody's request.
absl::Status RunLargestStep(LoadedEngine& engine, int max_step_rows) {
  int rows = std::min(max_step_rows, engine.memory.max_context);
  std::array<std::vector<int32_t>, engine::kNumKvGroups> tables;
  for (int group = 0; group < engine::kNumKvGroups; ++group) {
    if (!engine.stores[group].has_value()) continue;
    tables[group].resize(engine.memory.num_blocks[group]);
    std::iota(tables[group].begin(), tables[group].end(), 0);
    const int block_tokens = engine.stores[group]->layout().block_tokens;
    rows = static_cast<int>(
        std::min<int64_t>(rows, int64_t{engine.memory.num_blocks[group]} * block_tokens));
  }
  engine::StepBatch batch;
  batch.ids.assign(rows, engine.model.config.bos_id);
  batch.positions.resize(rows);
  std::iota(batch.positions.begin(), batch.positions.end(), 0);
  batch.segments = {{.num_rows = rows, .num_prompt_rows = rows - 1}};
  for (int group = 0; group < engine::kNumKvGroups; ++group) {
    batch.segments[0].block_table[group] = tables[group];
  }
  const engine::SamplingParams greedy = {.temperature = 0.0f};
  batch.samples = {{.row = rows - 1, .params = &greedy, .position = rows}};
  engine::StepResult result;
  return engine.runner->Run(batch, result);
}

}  // namespace

absl::StatusOr<scheduler::CostModel> WarmUp(LoadedEngine& engine,
                                            const scheduler::SchedulerConfig& config) {
  if (absl::Status s = CheckFirstToken(engine); !s.ok()) return s;
  if (engine.backends.device != nullptr) {
    if (absl::Status s = RunLargestStep(engine, config.max_step_rows); !s.ok()) return s;
  }
  scheduler::CostModel cost;
  if (config.max_draft_tokens > 0) {
    cost = scheduler::MeasureCosts(RunStepOf(engine), config, LimitsOf(engine),
                                   scheduler::MonotonicNowUs, kMeasureUs);
  }
  const kernels::Ops& ops = engine.backends.ops();
  if (absl::Status s = ops.status(ops.backend); !s.ok()) return s;
  return cost;
}

absl::StatusOr<std::unique_ptr<RunningModel>> RunningModel::Start(const Settings& settings,
                                                                  ModelSource source,
                                                                  Tokenizer tokenizer,
                                                                  const Console& console,
                                                                  ModelStart start) {
  absl::StatusOr<Backends> backends = MakeBackends(settings);
  if (!backends.ok()) return backends.status();
  const absl::StatusOr<MemoryPlan> plan = PlanMemoryOf(*backends, source.config, start.memory);
  if (!plan.ok()) return plan.status();
  if (start.describe) DescribeStart(console, settings, source, *backends, *plan);
  std::unique_ptr<RunningModel> model(new RunningModel(std::move(source), std::move(tokenizer)));
  absl::StatusOr<std::unique_ptr<LoadedEngine>> engine =
      LoadEngine(settings, model->source_, *plan, *std::move(backends), console, start.progress);
  if (!engine.ok()) return engine.status();
  model->engine_ = *std::move(engine);
  if (absl::Status s = model->Schedule(start); !s.ok()) return s;
  return model;
}

absl::Status RunningModel::Schedule(const ModelStart& start) {
  const scheduler::ModelLimits limits = LimitsOf(*engine_);
  scheduler::SchedulerConfig config = start.scheduler(limits);
  config.max_draft_tokens = engine_->max_draft_tokens;
  if (absl::Status s = scheduler::Validate(config, limits); !s.ok()) return s;
  const double begin_s = MonotonicSeconds();
  absl::StatusOr<scheduler::CostModel> cost = WarmUp(*engine_, config);
  if (!cost.ok()) return cost.status();
  warm_up_s_ = MonotonicSeconds() - begin_s;
  scheduler_.emplace(config, limits, RunStepOf(*engine_), scheduler::MonotonicNowUs, start.observer,
                     *std::move(cost));
  thread_ = std::thread([this] {
    kernels::LowerPriority();  // those that answer clients go first
    scheduler_->Run();
  });
  GeneratorConfig text = start.text;
  text.max_context = limits.max_context;
  generator_.emplace(text,
                     ModelText{.tokenizer = &tokenizer_,
                               .vocab_size = limits.vocab_size,
                               .invalid_prompt_ids = source_.config.media_ids},
                     *scheduler_);
  return absl::OkStatus();
}

void RunningModel::Stop() {
  generator_.reset();
  if (!thread_.joinable()) return;
  scheduler_->Stop();
  thread_.join();
}

RunningModel::~RunningModel() { Stop(); }

}  // namespace tandem::server
