#include <cstdlib>
#include <iostream>

#include "kernels/cuda/emulated_backend.h"
#include "tests/device/test_device.h"

namespace tandem::testing {

std::unique_ptr<kernels::DeviceBackend> MakeTestDevice(kernels::CpuBackend& host) {
  kernels::DeviceBackendConfig config;
  config.attention_bytes = size_t{8} << 20;
  auto backend = kernels::MakeEmulatedBackend(config, host, {.os_threads = 2});
  if (!backend.ok()) {
    std::cerr << "emulated device: " << backend.status() << std::endl;
    std::abort();
  }
  return *std::move(backend);
}

}  // namespace tandem::testing
