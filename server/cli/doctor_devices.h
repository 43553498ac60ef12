// The checks of `tandem doctor` on CUDA: driver, devices, cuBLASLt.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/device_info.h"
#include "server/cli/doctor.h"
#include "server/config/device_setting.h"

namespace tandem::server {

// What this build and this machine have.
struct CudaFacts {
  int built_version = 0;  // BuiltCudaVersion()
  absl::StatusOr<std::vector<kernels::DeviceInfo>> devices;
  // Name of the library, or why there is none; nothing: nobody looked, since there is no device.
  std::optional<absl::StatusOr<std::string>> cublaslt;
};

// Uses each device for a moment.
//   libraries  where the environment says that CUDA's are
CudaFacts LookAtCuda(const kernels::CudaLibraryDirs& libraries);

// One finding on driver and runtime, one on each device, one on the library where there is a
// device. What keeps a device from being used fails if it was asked for, else it passes: the CPU
// does the work.
//   asked  --device
std::vector<Finding> CheckDevices(const DeviceSetting& asked, const CudaFacts& facts);

}  // namespace tandem::server
