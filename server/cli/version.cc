#include "server/cli/version.h"

#include "absl/strings/str_format.h"
#include "kernels/cpu/cpu_backend.h"
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
  return absl::StrFormat(
      "tandem %s (%s)\nbuilt by %s\ninstruction sets%s; this machine runs %s\nCUDA none\n",
      std::string(Version()), std::string(GitCommit()), std::string(BuildFlags()), isas,
      std::string(kernels::CpuIsaName(kernels::BestCpuIsa())));
}

}  // namespace tandem::server
