// What a model runs on: the host, and a device where the settings and the machine have one.
//
// Not here  which devices a build has kernels for (built_devices.h); sharing out memory
// (memory_plan.h).
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "server/cli/memory_plan.h"
#include "server/cli/model_source.h"
#include "server/config/settings.h"

namespace tandem::server {

struct Backends {
  kernels::CpuBackendPtr cpu;
  std::unique_ptr<kernels::DeviceBackend> device;  // null: the CPU does all work
  std::string why_cpu;  // why --device auto found no device; empty where it was not asked to

  const kernels::Ops& ops() const { return device != nullptr ? device->ops() : CpuOps(*cpu); }
};

// The CPU: --threads, --cpu-isa, --dtype.
//   errors  kInvalidArgument for an instruction set that this machine does not have
absl::StatusOr<kernels::CpuBackendPtr> MakeCpu(const Settings& settings);

// The same, and what --device says. auto takes the first device if it can be used and nothing asks
// for f32, else the CPU.
//   errors  also those of built_devices.h; kInvalidArgument for f32 on a device
absl::StatusOr<Backends> MakeBackends(const Settings& settings);

// Whether the device has kernels for every shape of the model and its assistant.
//   errors  those of kernels::DeviceBackend::CheckShape
absl::Status CheckShapes(const ModelSource& source, const Backends& backends);

// PlanMemory with what is free where the model is to run. On a device the per-layer table stays
// with the host, which must have room for it where it is not in a file.
absl::StatusOr<MemoryPlan> PlanMemoryOf(const Backends& backends, const engine::ModelConfig& config,
                                        MemoryRequest request);

}  // namespace tandem::server
