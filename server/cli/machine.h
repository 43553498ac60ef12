// What this machine is, and how much memory it has left for this process.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace tandem::server {

struct FreeMemory {
  uint64_t bytes = 0;
  std::string limit;  // what sets it: "on this machine", "under the cgroup limit of 8.0 GiB"
};

// The smaller of the system's MemAvailable and what the memory limits of this process's cgroup and
// its parents leave (page cache that can be dropped counts as free). Values that can not be read do
// not limit.
//   proc    /proc, or a copy for tests
//   cgroup  /sys/fs/cgroup, or a copy for tests; version 2
FreeMemory LookAtMemory(const std::filesystem::path& proc = "/proc",
                        const std::filesystem::path& cgroup = "/sys/fs/cgroup");

// Bytes of the last-level caches of all CPUs together; nothing when the system does not tell. In a
// virtual machine, what the host says it has.
//   cpus  /sys/devices/system/cpu, or a copy for tests
std::optional<uint64_t> LastLevelCacheBytes(
    const std::filesystem::path& cpus = "/sys/devices/system/cpu");

// "AMD EPYC 9B14", from /proc/cpuinfo; "unknown CPU" when it does not say.
std::string CpuModelName();

}  // namespace tandem::server
