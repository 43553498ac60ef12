// `tandem doctor`: everything that `tandem serve` with the same options will want, looked at
// before.

#include <sys/resource.h>

#include <cstdio>
#include <utility>

#include "kernels/cpu/cpu_features.h"
#include "server/cli/doctor.h"
#include "server/cli/doctor_machine.h"
#include "server/cli/doctor_model.h"
#include "server/cli/verbs.h"

namespace tandem::server {
namespace {

constexpr int kSomethingFailed = 1;

}  // namespace

int Doctor(const Settings& settings, const Terminal& terminal) {
  const FreeMemory free = LookAtMemory();
  std::vector<Finding> findings = {
      CheckCpu(CpuModelName(), settings.cpu_isa, kernels::BestCpuIsa()),
      CheckThreads(settings.threads, static_cast<int>(kernels::AffinityCpus().size()),
                   kernels::CgroupCpuLimit()),
      CheckDevice(settings.device), CheckHugePages(), CheckFreeMemory(free)};
  for (Finding& finding : CheckModel(settings, free)) findings.push_back(std::move(finding));
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
