#include "kernels/cuda/device_info.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tandem::kernels {
namespace {

double Gib(size_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

}  // namespace

std::string CudaVersionText(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

std::string DescribeDevice(const DeviceInfo& device) {
  return absl::StrFormat(
      "%s, compute capability %d.%d, %d multiprocessors, %.1f of %.1f GiB free, driver for CUDA %s",
      device.name, device.major, device.minor, device.multiprocessors, Gib(device.free_bytes),
      Gib(device.total_bytes), CudaVersionText(device.driver_version));
}

absl::StatusOr<std::string> DeviceCodeFor(int major, int minor) {
  if (major < 8) {
    return absl::UnimplementedError(absl::StrFormat(
        "the device has compute capability %d.%d and the kernels need 8.0 (Ampere) or newer; use "
        "another device or --device cpu",
        major, minor));
  }
  if (major == 8) return minor < 6 ? "sm_80" : "sm_86";
  if (major == 9) return "sm_90a";
  if (major == 12) return "sm_120";
  return "PTX of 8.0, compiled by the driver at the first start";
}

absl::Status CheckDriver(int driver_version, int runtime_version) {
  if (driver_version == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "this machine has no NVIDIA driver; install one that serves CUDA ",
        CudaVersionText(runtime_version),
        " (in a container: give it the devices, such as docker run --gpus all), or use --device "
        "cpu"));
  }
  if (driver_version / 1000 < runtime_version / 1000) {
    return absl::FailedPreconditionError(
        absl::StrCat("the NVIDIA driver serves CUDA ", CudaVersionText(driver_version),
                     " and this program was built with CUDA ", CudaVersionText(runtime_version),
                     "; install a driver for CUDA ", CudaVersionText(runtime_version / 1000 * 1000),
                     " or newer, or use --device cpu"));
  }
  return absl::OkStatus();
}

absl::Status CheckDeviceIndex(int index, int num_devices) {
  if (num_devices == 0) {
    return absl::NotFoundError(
        "the NVIDIA driver shows no device to this process; check nvidia-smi and "
        "CUDA_VISIBLE_DEVICES, or use --device cpu");
  }
  if (index < 0 || index >= num_devices) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--device cuda:%d names no device: this process sees %d, cuda:0 to cuda:%d",
                        index, num_devices, num_devices - 1));
  }
  return absl::OkStatus();
}

absl::Status DeviceIsFull(const DeviceInfo& device) {
  return absl::ResourceExhaustedError(absl::StrFormat(
      "device %d (%s) has no memory left to start with: other processes hold its %.1f GiB; end "
      "them (nvidia-smi lists them) or choose another device",
      device.index, device.name, Gib(device.total_bytes)));
}

absl::Status OutOfDeviceMemory(std::string_view what, size_t bytes, size_t free_bytes,
                               size_t total_bytes) {
  return absl::ResourceExhaustedError(absl::StrFormat(
      "%s: %d bytes of device memory are needed and %d of %d are free; choose a smaller "
      "--kv-memory, --max-context or --weights, or end other processes on the device",
      std::string(what), bytes, free_bytes, total_bytes));
}

absl::Status OutOfPinnedMemory(std::string_view what, size_t bytes, std::string_view reason) {
  return absl::ResourceExhaustedError(
      absl::StrFormat("%s: %d bytes of page-locked host memory are needed and can not be had: %s",
                      std::string(what), bytes, std::string(reason)));
}

absl::Status DeviceLost(std::string_view cause) {
  return absl::UnavailableError(absl::StrCat("the CUDA device is lost: ", std::string(cause),
                                             "; the process must be started again to use it"));
}

}  // namespace tandem::kernels
