// What this machine grants to this process: instruction sets and CPUs.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace tandem::kernels {

// CPUs of the inherited affinity mask, ascending; at least one.
std::vector<int> AffinityCpus();

// CPUs worth of time that the cgroup of this process and its parents allow; nullopt: no limit.
std::optional<double> CgroupCpuLimit();

// The value of a cgroup v2 `cpu.max` file ("150000 100000" is 1.5); nullopt: "max" or unreadable.
std::optional<double> ParseCpuMax(std::string_view text);

// Threads for threads = 0: one per CPU of the mask, at most the whole CPUs of the limit, at
// least 1.
int DefaultThreads(int affinity_cpus, std::optional<double> cgroup_limit);

}  // namespace tandem::kernels
