// What a CUDA device is, and whether this program can use it: facts and messages, no calls of CUDA.
//
// Not here  asking the driver (device_cuda.cu); memory, streams and graphs (device.h).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::kernels {

struct DeviceInfo {
  int index = 0;
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  int multiprocessors = 0;
  size_t block_shared_bytes = 0;  // shared memory that one block may ask for
  size_t l2_bytes = 0;
  size_t total_bytes = 0;
  size_t free_bytes = 0;    // when it was asked; 0 where the device could not be used then
  int driver_version = 0;   // newest CUDA that the driver serves, 1000 * major + 10 * minor
  int runtime_version = 0;  // of the CUDA runtime in this program, likewise
};

// "13.0" of 13000.
std::string CudaVersionText(int version);

// One line: name, compute capability, multiprocessors, memory, driver.
std::string DescribeDevice(const DeviceInfo& device);

// What runs on a compute capability: "sm_80", "sm_86", "sm_90a", "sm_120" or "PTX of 8.0, compiled
// by the driver at the first start". Unimplemented below 8.0.
absl::StatusOr<std::string> DeviceCodeFor(int major, int minor);

// OK where a driver can serve the runtime in this program. FailedPrecondition without a driver
// (driver_version 0), and with one of an older major version.
absl::Status CheckDriver(int driver_version, int runtime_version);

// NotFound without a device, InvalidArgument for an index that none has.
absl::Status CheckDeviceIndex(int index, int num_devices);

// ResourceExhausted: another process has the memory that a start needs.
absl::Status DeviceIsFull(const DeviceInfo& device);

// ResourceExhausted; `what` says whom the bytes were for, such as "weights".
absl::Status OutOfDeviceMemory(std::string_view what, size_t bytes, size_t free_bytes,
                               size_t total_bytes);
// The same of page-locked host memory, which has no count of what is free.
absl::Status OutOfPinnedMemory(std::string_view what, size_t bytes, std::string_view reason);

// Unavailable: nothing can be done with the device but to start the process again.
absl::Status DeviceLost(std::string_view cause);

namespace cuda {

// CUDART_VERSION of the toolkit that the kernels were built with. Asks no driver. Only in programs
// with the kernels of nvcc.
int RuntimeVersion();

// All devices of this machine, by index. Makes a context on each (some 0.3 s and 300 MB): for
// looking around, not before serving. The errors of CheckDriver; an empty list without a device.
// Only in programs with the kernels of nvcc.
absl::StatusOr<std::vector<DeviceInfo>> ListDevices();

}  // namespace cuda
}  // namespace tandem::kernels
