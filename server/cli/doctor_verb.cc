// `tandem doctor`: everything that `tandem serve` with the same options will want, looked at
// before.

#include <sys/resource.h>

#include <cstdio>
#include <utility>

#include "kernels/cpu/cpu_features.h"
#include "server/cli/backends.h"
#include "server/cli/doctor.h"
#include "server/cli/doctor_devices.h"
#include "server/cli/doctor_machine.h"
#include "server/cli/doctor_model.h"
#include "server/cli/verbs.h"
#include "server/config/device_setting.h"

namespace tandem::server {
namespace {

constexpr int kSomethingFailed = 1;

void Append(std::vector<Finding> more, std::vector<Finding>& findings) {
  for (Finding& finding : more) findings.push_back(std::move(finding));
}

}  // namespace

int Doctor(const Settings& settings, const Terminal& terminal,
           const kernels::CudaLibraryDirs& libraries) {
  const DeviceSetting device = DeviceOf(settings);
  std::vector<Finding> findings = {
      CheckCpu(CpuModelName(), settings.cpu_isa, kernels::BestCpuIsa()),
      CheckThreads(settings.threads, static_cast<int>(kernels::AffinityCpus().size()),
                   kernels::CgroupCpuLimit()),
      CheckHugePages(), CheckFreeMemory(LookAtMemory())};
  if (device.kind != DeviceSetting::Kind::kCpu) {
    Append(CheckDevices(device, LookAtCuda(libraries)), findings);
  }
  Settings one_thread = settings;
  one_thread.threads = 1;
  const absl::StatusOr<Backends> backends = MakeBackends(one_thread);
  if (!backends.ok() && !AnyFailed(findings)) {
    findings.push_back({Finding::Level::kFail, "device", std::string(backends.status().message()),
                        "change that option"});
  }
  Append(CheckModel(settings, backends.ok() ? &*backends : nullptr), findings);
  for (const std::string& listen : settings.grpc_listen) {
    findings.push_back(CheckPort("--grpc-listen", listen));
  }
  if (settings.http_listen != "off") {
    findings.push_back(CheckPort("--http-listen", settings.http_listen));
  }
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) findings.push_back(CheckOpenFiles(files.rlim_cur));
  std::fputs((settings.json ? FindingsJson(findings) : FindingsText(findings, terminal)).c_str(),
             stdout);
  return AnyFailed(findings) ? kSomethingFailed : 0;
}

}  // namespace tandem::server
