// A model ready to run steps: backends, weights, KV blocks, drafter, runner.
//
// Not here  how much memory each gets (memory_plan.h); which device (backends.h); what the steps
// are (scheduler/,
// bench_model.h); a model that answers (running_model.h).
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/assistant.h"
#include "engine/load_assistant.h"
#include "engine/load_model.h"
#include "engine/runner.h"
#include "kvcache/block_store.h"
#include "scheduler/config.h"
#include "server/cli/backends.h"
#include "server/cli/console.h"
#include "server/cli/memory_plan.h"
#include "server/cli/model_source.h"
#include "server/config/settings.h"

namespace tandem::server {

struct LoadedEngine {
  Backends backends;
  engine::Model model;
  MemoryPlan memory;
  kvcache::KvFormats kv_formats;
  std::array<std::optional<kvcache::BlockStore>, engine::kNumKvGroups> stores;
  std::optional<engine::AssistantModel> assistant_model;
  std::unique_ptr<engine::Assistant> assistant;  // null: there is no drafter
  int max_draft_tokens = 0;                      // longest draft; 0 without one
  std::unique_ptr<engine::Runner> runner;
  double load_s = 0.0;
};

// The assistant as the engine calls it, which it must not outlive; null without one.
engine::Propose ProposeOf(LoadedEngine& engine);

// Puts a proposer in front of another one, which is null without an assistant.
using WrapPropose = std::function<engine::Propose(engine::Propose drafter)>;

// What the settings ask of memory. `max_slots` differs by verb. Without reuse of prefixes.
MemoryRequest MemoryRequestOf(const Settings& settings, const ModelSource& source, int max_slots);
// What `tandem serve` asks.
MemoryRequest ServingMemory(const Settings& settings, const ModelSource& source);

// Whether the backend reads and writes all of the model's KV in these formats.
//   errors  those of engine::CheckKvKernels and engine::TryKvEncoder
absl::Status CheckKv(const engine::ModelConfig& config, const kvcache::KvFormats& formats,
                     const kernels::Ops& ops);

// Loads the weights with a progress bar and allocates what `plan` says. The assistant comes first:
// it is small, and what is wrong with it shows before the model has been read.
//   progress  also told, if given
//   wrap      given the assistant as a proposer, returns the one to use; null: that one
//   errors    name the file and the tensor, the memory that could not be had, or the shape that
//             the device has no kernel for
absl::StatusOr<std::unique_ptr<LoadedEngine>> LoadEngine(const Settings& settings,
                                                         const ModelSource& source,
                                                         const MemoryPlan& plan, Backends backends,
                                                         const Console& console,
                                                         const engine::LoadProgress& progress,
                                                         const WrapPropose& wrap = nullptr);

scheduler::ModelLimits LimitsOf(const LoadedEngine& engine);

// The lines of the start-up output about model, drafter, device and memory.
void DescribeStart(const Console& console, const Settings& settings, const ModelSource& source,
                   const Backends& backends, const MemoryPlan& plan);

}  // namespace tandem::server
