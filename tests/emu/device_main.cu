// Runs kernel tests on a device: without one the program says why and ends with 77.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "kernels/cuda/device.h"
#include "tests/emu/managed_heap.h"

namespace {

constexpr int kNoDevice = 77;
constexpr size_t kHeapBytes = size_t{4} << 30;

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (testing::GTEST_FLAG(list_tests)) return RUN_ALL_TESTS();
  const auto device = tandem::kernels::cuda::Device::Open(0);
  if (!device.ok()) {
    std::fprintf(stderr, "no device to test on: %s\n",
                 std::string(device.status().message()).c_str());
    return kNoDevice;
  }
  std::printf("%s\n", tandem::kernels::DescribeDevice(device->info()).c_str());
  if (const std::string problem = tandem::kernels::UseManagedHeap(kHeapBytes); !problem.empty()) {
    std::fprintf(stderr, "no device to test on: managed memory: %s\n", problem.c_str());
    return kNoDevice;
  }
  const int result = RUN_ALL_TESTS();
  // Static objects end after the driver has taken the heap away.
  std::fflush(nullptr);
  std::_Exit(result);
}
