// Engine tests on a GPU; without one the program says why and ends with 77.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "kernels/cuda/device_info.h"
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

int main(int argc, char** argv) {
  constexpr int kNoDevice = 77;
  testing::InitGoogleTest(&argc, argv);
  if (testing::GTEST_FLAG(list_tests)) return RUN_ALL_TESTS();
  const auto devices = tandem::kernels::cuda::ListDevices();
  if (!devices.ok() || devices->empty()) {
    const absl::Status none = tandem::kernels::CheckDeviceIndex(0, 0);
    std::cerr << "no device to test on: " << (devices.ok() ? none : devices.status()).message()
              << std::endl;
    return kNoDevice;
  }
  std::cout << tandem::kernels::DescribeDevice(devices->front()) << std::endl;
  return RUN_ALL_TESTS();
}
