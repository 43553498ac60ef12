// A model ready to run steps: backend, weights, KV blocks, runner.
//
// Not here  how much memory each gets (memory_plan.h); what the steps are (scheduler/,
// bench_model.h).
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "absl/status/statusor.h"
#include "engine/load_model.h"
#include "engine/runner.h"
#include "kernels/cpu/cpu_backend.h"
#include "kvcache/block_store.h"
#include "scheduler/config.h"
#include "scheduler/scheduler.h"
#include "server/cli/console.h"
#include "server/cli/memory_plan.h"
#include "server/cli/model_source.h"
#include "server/config/settings.h"

namespace tandem::server {

struct LoadedEngine {
  kernels::CpuBackendPtr backend;
  engine::Model model;
  MemoryPlan memory;
  kernels::KvFormat kv_format = kernels::KvFormat::kBf16;
  std::array<std::optional<kvcache::BlockStore>, engine::kNumKvGroups> stores;
  std::unique_ptr<engine::Runner> runner;
  double load_s = 0.0;
};

// --kv-type, or what follows from --dtype.
kernels::KvFormat KvFormatOf(const Settings& settings);
std::string_view KvFormatName(kernels::KvFormat format);

// What the settings ask of memory. `max_slots` differs by verb.
MemoryRequest MemoryRequestOf(const Settings& settings, const ModelSource& source, int max_slots);

// --device, --threads, --cpu-isa, --dtype.
//   errors  kUnimplemented for --device cuda; kInvalidArgument for an instruction set that this
//           machine does not have
absl::StatusOr<kernels::CpuBackendPtr> MakeBackend(const Settings& settings);

// Loads the weights with a progress bar and allocates what `plan` says.
//   progress  also told, if given
//   errors    name the file and the tensor, or the memory that could not be had
absl::StatusOr<std::unique_ptr<LoadedEngine>> LoadEngine(
    const Settings& settings, const ModelSource& source, const MemoryPlan& plan,
    kernels::CpuBackendPtr backend, const Console& console, const engine::LoadProgress& progress);

scheduler::ModelLimits LimitsOf(const LoadedEngine& engine);

// The thread that steps until Stop. It stands back for those that answer clients.
std::thread StartScheduler(scheduler::Scheduler& scheduler);

// The lines of the start-up output about model, device and memory.
void DescribeStart(const Console& console, const Settings& settings, const ModelSource& source,
                   const kernels::Ops& ops, const MemoryPlan& plan);

}  // namespace tandem::server
