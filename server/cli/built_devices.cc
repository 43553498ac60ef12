#include "server/cli/built_devices.h"

#include <cstdlib>
#include <string>

#ifdef TANDEM_EMULATED_DEVICE
#include "kernels/cuda/emulated_backend.h"
#endif

namespace tandem::server {

#ifdef TANDEM_CUDA_DEVICES

int BuiltCudaVersion() { return kernels::cuda::RuntimeVersion(); }

absl::StatusOr<std::vector<kernels::DeviceInfo>> ListCudaDevices() {
  return kernels::cuda::ListDevices();
}

absl::StatusOr<std::unique_ptr<kernels::DeviceBackend>> OpenCuda(int index,
                                                                 kernels::CpuBackend& host) {
  return kernels::MakeCudaBackend({.device = index}, host);
}

#else
namespace {

absl::Status NoKernels() {
  return absl::UnimplementedError(
      "this build has no CUDA kernels; build Tandem where nvcc 12.8 or newer is found, or use "
      "--device cpu");
}

}  // namespace

int BuiltCudaVersion() { return 0; }

absl::StatusOr<std::vector<kernels::DeviceInfo>> ListCudaDevices() { return NoKernels(); }

absl::StatusOr<std::unique_ptr<kernels::DeviceBackend>> OpenCuda(int, kernels::CpuBackend&) {
  return NoKernels();
}

#endif

absl::StatusOr<std::unique_ptr<kernels::DeviceBackend>> OpenEmulated(
    [[maybe_unused]] kernels::CpuBackend& host) {
#ifdef TANDEM_EMULATED_DEVICE
  constexpr size_t kAttentionBytes = size_t{8} << 20;
  return kernels::MakeEmulatedBackend({.attention_bytes = kAttentionBytes}, host,
                                      {.os_threads = kernels::CpuThreads(host)});
#else
  return absl::UnimplementedError("this build has no emulated kernels; use --device cpu");
#endif
}

kernels::CudaLibraryDirs CudaLibraries() {
  const auto directory = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  return {.own = directory("TANDEM_CUDA_LIB_DIR"), .cuda_home = directory("CUDA_HOME")};
}

}  // namespace tandem::server
