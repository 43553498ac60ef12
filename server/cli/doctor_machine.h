// The checks of `tandem doctor` that need no model: processor, memory, ports, limits.
//
// Each looks at one thing, changes nothing, and says what to do where something is not as it should
// be.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/cpu/cpu_backend.h"
#include "server/cli/doctor.h"
#include "server/cli/machine.h"

namespace tandem::server {

// Which instruction sets the kernels will use.
//   asked  --cpu-isa
//   best   of this machine
Finding CheckCpu(const std::string& cpu_name, std::string_view asked, kernels::CpuIsa best);

// Threads of the model against what is granted.
//   asked   --threads; 0: as many as granted
//   cpus    of the affinity mask
//   quota   CPUs of the cgroup's limit; nothing: no limit
Finding CheckThreads(int asked, int cpus, std::optional<double> quota);

// Transparent huge pages, which the weights ask for.
//   sys  /sys, or a copy for tests
Finding CheckHugePages(const std::filesystem::path& sys = "/sys");

Finding CheckFreeMemory(const FreeMemory& free);

// The limit on open files: every connection takes one.
Finding CheckOpenFiles(uint64_t limit);

// Whether `listen` (HOST:PORT) could be bound. Binds it for a moment, and listens to nobody.
//   option  what a message calls it: "--grpc-listen"
Finding CheckPort(const std::string& option, const std::string& listen);

// Whether the file system that holds `directory` is a local one. Nothing: it can not be told.
std::optional<Finding> CheckFileSystem(const std::filesystem::path& directory);

}  // namespace tandem::server
