// The CUDA backend on emulated kernels: for tests.
#pragma once

#include <memory>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.h"

namespace tandem::kernels {

absl::StatusOr<std::unique_ptr<DeviceBackend>> MakeEmulatedBackend(
    const DeviceBackendConfig& config, CpuBackend& host, const cuda_emu::Machine& machine = {});

}  // namespace tandem::kernels
