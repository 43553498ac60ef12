#include "kernels/cpu/cpu_features.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tandem::kernels {
namespace {

std::optional<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::optional<double> TakeNumber(std::string_view& text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\n')) text.remove_prefix(1);
  long long value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return static_cast<double>(value);
}

// The smallest cpu.max from `group` ("/a/b") up to the root of a cgroup v2 mount.
std::optional<double> LimitV2(std::string group) {
  std::optional<double> limit;
  for (;;) {
    const std::string dir = "/sys/fs/cgroup" + (group == "/" ? std::string() : group);
    if (const std::optional<std::string> text = ReadFile(dir + "/cpu.max")) {
      if (const std::optional<double> own = ParseCpuMax(*text)) {
        limit = std::min(*own, limit.value_or(*own));
      }
    }
    const size_t slash = group.rfind('/');
    if (group.size() <= 1 || slash == std::string::npos) return limit;
    group.resize(slash == 0 ? 1 : slash);
  }
}

// cgroup v1 as a container sees it: its own group is mounted at the top.
std::optional<double> LimitV1() {
  const std::optional<std::string> quota = ReadFile("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  const std::optional<std::string> period = ReadFile("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (!quota || !period) return std::nullopt;
  return ParseCpuMax(absl::StrCat(*quota, " ", *period));
}

}  // namespace

std::string_view CpuIsaName(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kRef:
      return "ref";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kAvx512Bf16:
      return "avx512bf16";
  }
  return "unknown";
}

absl::StatusOr<CpuIsa> ParseCpuIsa(std::string_view name) {
  for (CpuIsa isa : {CpuIsa::kRef, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAvx512Bf16}) {
    if (name == CpuIsaName(isa)) return isa;
  }
  return absl::InvalidArgumentError(absl::StrCat("CPU instruction set is \"",
                                                 std::string(name.substr(0, 64)),
                                                 "\"; use one of ref, avx2, avx512, avx512bf16"));
}

CpuIsa BestCpuIsa() {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  if (!avx2) return CpuIsa::kRef;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!avx512) return CpuIsa::kAvx2;
  const bool bf16 = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  return bf16 ? CpuIsa::kAvx512Bf16 : CpuIsa::kAvx512;
}

std::vector<int> AffinityCpus() {
  constexpr int kMaxCpus = 8192;
  std::vector<int> cpus;
  cpu_set_t* set = CPU_ALLOC(kMaxCpus);
  const size_t bytes = CPU_ALLOC_SIZE(kMaxCpus);
  CPU_ZERO_S(bytes, set);
  if (sched_getaffinity(0, bytes, set) == 0) {
    for (int cpu = 0; cpu < kMaxCpus; ++cpu) {
      if (CPU_ISSET_S(cpu, bytes, set)) cpus.push_back(cpu);
    }
  }
  CPU_FREE(set);
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

std::optional<double> ParseCpuMax(std::string_view text) {
  const std::optional<double> quota = TakeNumber(text);
  const std::optional<double> period = TakeNumber(text);
  if (!quota || !period || *quota <= 0 || *period <= 0) return std::nullopt;
  return *quota / *period;
}

std::optional<double> CgroupCpuLimit() {
  if (const std::optional<std::string> groups = ReadFile("/proc/self/cgroup")) {
    const size_t line = groups->rfind("0::", 0) == 0 ? 0 : groups->find("\n0::");
    if (line != std::string::npos) {
      const size_t begin = groups->find('/', line);
      if (begin != std::string::npos) {
        const std::string group = groups->substr(begin, groups->find('\n', begin) - begin);
        if (const std::optional<double> limit = LimitV2(group)) return limit;
      }
    }
  }
  return LimitV1();
}

int DefaultThreads(int affinity_cpus, std::optional<double> cgroup_limit) {
  int threads = affinity_cpus;
  if (cgroup_limit && *cgroup_limit < threads) threads = static_cast<int>(*cgroup_limit);
  return std::max(1, threads);
}

}  // namespace tandem::kernels
