// The devices that this program has kernels for, which differ by build.
//
// Not here  which of them the settings mean (backends.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_info.h"

namespace tandem::server {

// The version of CUDA that the kernels were built with, 1000 * major + 10 * minor; 0: there are
// none.
int BuiltCudaVersion();

// kernels::cuda::ListDevices.
//   errors  also kUnimplemented in a build without the kernels
absl::StatusOr<std::vector<kernels::DeviceInfo>> ListCudaDevices();

// kernels::MakeCudaBackend.
//   errors  as above
absl::StatusOr<std::unique_ptr<kernels::DeviceBackend>> OpenCuda(int index,
                                                                 kernels::CpuBackend& host);

// Where this process is told that NVIDIA's libraries lie: TANDEM_CUDA_LIB_DIR, CUDA_HOME.
kernels::CudaLibraryDirs CudaLibraries();

// A device with emulated kernels, for tests.
//   errors  kUnimplemented in a build without tests
absl::StatusOr<std::unique_ptr<kernels::DeviceBackend>> OpenEmulated(kernels::CpuBackend& host);

}  // namespace tandem::server
