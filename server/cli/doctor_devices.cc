#include "server/cli/doctor_devices.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/cli/built_devices.h"

namespace tandem::server {
namespace {

using Kind = DeviceSetting::Kind;
using Level = Finding::Level;

// "what is so; what to do" as a finding: it fails where the device was asked for.
Finding Unusable(std::string name, const absl::Status& status, bool was_asked) {
  const std::string message(status.message());
  const size_t end = message.find("; ");
  const std::string fact = message.substr(0, end);
  if (!was_asked) return {.name = std::move(name), .text = fact + "; the CPU does the work"};
  return {Level::kFail, std::move(name), fact,
          end == std::string::npos ? "use --device cpu" : message.substr(end + 2)};
}

Finding CheckDevice(const kernels::DeviceInfo& device, bool was_asked) {
  const std::string name = absl::StrCat("cuda:", device.index);
  const absl::StatusOr<std::string> code = kernels::DeviceCodeFor(device.major, device.minor);
  if (!code.ok()) return Unusable(name, code.status(), was_asked);
  if (device.free_bytes == 0) return Unusable(name, kernels::DeviceIsFull(device), was_asked);
  return {.name = name, .text = kernels::DescribeDevice(device) + "; runs " + *code};
}

Finding CheckCublasLt(const absl::StatusOr<std::string>& library) {
  if (library.ok()) return {.name = "cublaslt", .text = *library};
  return {Level::kWarn, "cublaslt",
          absl::StrCat(std::string(library.status().message()), "; own kernels multiply prompts"),
          "install NVIDIA's cuBLAS 13, or set CUDA_HOME to where it is, for faster prompts"};
}

}  // namespace

CudaFacts LookAtCuda(const kernels::CudaLibraryDirs& libraries) {
  CudaFacts facts = {.built_version = BuiltCudaVersion(), .devices = ListCudaDevices()};
  if (!facts.devices.ok() || facts.devices->empty()) return facts;
  const absl::StatusOr<kernels::CublasLt> library =
      kernels::CublasLt::Load(kernels::CublasLtPaths(libraries));
  facts.cublaslt = library.ok() ? absl::StatusOr<std::string>(library->name())
                                : absl::StatusOr<std::string>(library.status());
  return facts;
}

std::vector<Finding> CheckDevices(const DeviceSetting& asked, const CudaFacts& facts) {
  const bool was_asked = asked.kind == Kind::kCuda;
  if (!facts.devices.ok()) return {Unusable("cuda", facts.devices.status(), was_asked)};
  const int count = static_cast<int>(facts.devices->size());
  const absl::Status index = kernels::CheckDeviceIndex(was_asked ? asked.index : 0, count);
  if (!index.ok()) return {Unusable("cuda", index, was_asked)};
  std::vector<Finding> findings = {
      {.name = "cuda",
       .text = absl::StrCat("built with CUDA ", kernels::CudaVersionText(facts.built_version),
                            ", the driver serves ",
                            kernels::CudaVersionText(facts.devices->front().driver_version), ", ",
                            count, count == 1 ? " device" : " devices")}};
  for (const kernels::DeviceInfo& device : *facts.devices) {
    findings.push_back(CheckDevice(device, was_asked && device.index == asked.index));
  }
  if (facts.cublaslt.has_value()) findings.push_back(CheckCublasLt(*facts.cublaslt));
  return findings;
}

}  // namespace tandem::server
