#include <cstdlib>
#include <iostream>

#include "tests/device/test_device.h"

namespace tandem::testing {

std::unique_ptr<kernels::DeviceBackend> MakeTestDevice(kernels::CpuBackend& host) {
  kernels::DeviceBackendConfig config;
  config.attention_bytes = size_t{8} << 20;
  auto backend = kernels::MakeCudaBackend(config, host);
  if (!backend.ok()) {
    std::cerr << "device: " << backend.status() << std::endl;
    std::exit(1);
  }
  return *std::move(backend);
}

}  // namespace tandem::testing
