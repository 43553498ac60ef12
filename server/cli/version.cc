#include "server/cli/version.h"

#include "absl/strings/str_format.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/device_info.h"
#include "server/cli/built_devices.h"
#include "tandem_build_info.h"  // written by build_info.cmake

namespace tandem::server {

std::string_view Version() { return TANDEM_VERSION; }
std::string_view GitCommit() { return TANDEM_GIT_COMMIT; }
std::string_view BuildFlags() { return TANDEM_COMPILER " " TANDEM_BUILD_TYPE; }

std::string VersionText() {
  std::string isas;
  for (const kernels::CpuIsa isa : {kernels::CpuIsa::kRef, kernels::CpuIsa::kAvx2,
                                    kernels::CpuIsa::kAvx512, kernels::CpuIsa::kAvx512Bf16}) {
    isas += " " + std::string(kernels::CpuIsaName(isa));
  }
  const int cuda = BuiltCudaVersion();
  return absl::StrFormat(
      "tandem %s (%s)\nbuilt by %s\ninstruction sets%s; this machine runs %s\nCUDA %s\n",
      std::string(Version()), std::string(GitCommit()), std::string(BuildFlags()), isas,
      std::string(kernels::CpuIsaName(kernels::BestCpuIsa())),
      cuda == 0 ? "none" : kernels::CudaVersionText(cuda));
}

}  // namespace tandem::server
