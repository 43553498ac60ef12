// What is said about devices and their absence.
#include "kernels/cuda/device_info.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tandem::kernels {
namespace {

using testing::HasSubstr;

TEST(DeviceInfoTest, EveryArchitectureFromAmpereOnHasCode) {
  EXPECT_EQ(*DeviceCodeFor(8, 0), "sm_80");
  EXPECT_EQ(*DeviceCodeFor(8, 6), "sm_86");
  EXPECT_EQ(*DeviceCodeFor(8, 9), "sm_86");
  EXPECT_EQ(*DeviceCodeFor(9, 0), "sm_90a");
  EXPECT_EQ(*DeviceCodeFor(12, 1), "sm_120");
  for (const int major : {10, 11, 13}) {
    EXPECT_THAT(*DeviceCodeFor(major, 0), HasSubstr("PTX of 8.0")) << major;
  }
  EXPECT_EQ(DeviceCodeFor(7, 5).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(DeviceInfoTest, ADeviceIsDescribedInOneLine) {
  EXPECT_EQ(DescribeDevice({.name = "NVIDIA H200",
                            .major = 9,
                            .minor = 0,
                            .multiprocessors = 132,
                            .total_bytes = size_t{140} << 30,
                            .free_bytes = size_t{35} << 30,
                            .driver_version = 13010}),
            "NVIDIA H200, compute capability 9.0, 132 multiprocessors, 35.0 of 140.0 GiB free, "
            "driver for CUDA 13.1");
}

#ifdef TANDEM_WITH_CUDA
TEST(CudaDeviceTest, AMachineWithoutADriverSaysSo) {
  const absl::StatusOr<std::vector<DeviceInfo>> devices = cuda::ListDevices();
  if (devices.ok())
    GTEST_SKIP() << "this machine has a driver and " << devices->size() << " devices";
  EXPECT_EQ(devices.status().code(), absl::StatusCode::kFailedPrecondition) << devices.status();
  EXPECT_THAT(std::string(devices.status().message()),
              testing::AllOf(HasSubstr("driver"), HasSubstr("CUDA"), HasSubstr("--device cpu")));
}
#endif

}  // namespace
}  // namespace tandem::kernels
