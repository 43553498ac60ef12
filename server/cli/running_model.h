// A model that answers: found, loaded, warmed up, stepping on a thread of its own, with its text
// layer. The start that `serve`, `run`, `chat` and `bench serve` have in common.
//
// Not here  memory and weights (loaded_engine.h); who asks (server/grpc, chat_local.h, run.cc).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "absl/status/statusor.h"
#include "scheduler/scheduler.h"
#include "server/cli/console.h"
#include "server/cli/loaded_engine.h"
#include "server/cli/memory_plan.h"
#include "server/cli/model_source.h"
#include "server/config/settings.h"
#include "server/generation/generator.h"
#include "server/text/tokenizer.h"

namespace tandem::server {

// What one command wants of the start.
struct ModelStart {
  MemoryRequest memory;
  // max_draft_tokens is filled in.
  std::function<scheduler::SchedulerConfig(const scheduler::ModelLimits& limits)> scheduler;
  GeneratorConfig text = {};  // max_context is filled in
  bool describe = false;      // the lines about model, drafter, device and memory
  engine::LoadProgress progress = nullptr;
  scheduler::SchedulerObserver observer = {};
};

class RunningModel {
 public:
  //   errors  MakeBackends, PlanMemoryOf, LoadEngine, WarmUp; kInvalidArgument for a scheduler
  //           configuration that the model can not have
  static absl::StatusOr<std::unique_ptr<RunningModel>> Start(const Settings& settings,
                                                             ModelSource source,
                                                             Tokenizer tokenizer,
                                                             const Console& console,
                                                             ModelStart start);
  ~RunningModel();  // Stop
  RunningModel(const RunningModel&) = delete;
  RunningModel& operator=(const RunningModel&) = delete;

  const ModelSource& source() const { return source_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  LoadedEngine& engine() { return *engine_; }
  scheduler::Scheduler& scheduler() { return *scheduler_; }
  Generator& generator() { return *generator_; }  // until Stop
  double warm_up_s() const { return warm_up_s_; }

  // Cancels what is open, and ends the thread. Idempotent; the scheduler still tells its numbers.
  void Stop();

 private:
  RunningModel(ModelSource source, Tokenizer tokenizer)
      : source_(std::move(source)), tokenizer_(std::move(tokenizer)) {}
  absl::Status Schedule(const ModelStart& start);

  ModelSource source_;
  Tokenizer tokenizer_;
  std::unique_ptr<LoadedEngine> engine_;
  double warm_up_s_ = 0.0;
  std::optional<scheduler::Scheduler> scheduler_;
  std::thread thread_;
  std::optional<Generator> generator_;
};

// Runs the model before the first request: one row, so that what is wrong with the weights shows;
// and with a drafter a second of steps, to know from the start when drafts pay.
//   returns  what steps cost; empty without a drafter
//   errors   kDataLoss when the model does not give numbers; those of a device, which holds all
//            memory of its steps afterwards
absl::StatusOr<scheduler::CostModel> WarmUp(LoadedEngine& engine,
                                            const scheduler::SchedulerConfig& config);

}  // namespace tandem::server
