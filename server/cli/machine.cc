#include "server/cli/machine.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <sstream>

#include "server/cli/format.h"

namespace tandem::server {
namespace {

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

std::optional<std::string> ReadText(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::optional<uint64_t> ReadNumber(const std::filesystem::path& path) {
  std::ifstream file(path);
  uint64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;  // "max", or no such file
}

// The number behind `key` at the start of a line.
std::optional<uint64_t> Field(const std::string& text, std::string_view key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.compare(0, key.size(), key) != 0) continue;
    std::istringstream rest(line.substr(key.size()));
    uint64_t number = 0;
    if (rest >> number) return number;
  }
  return std::nullopt;
}

// The process's cgroup: the path behind "0::" of /proc/self/cgroup.
std::filesystem::path CgroupPath(const std::filesystem::path& proc) {
  std::istringstream lines(ReadText(proc / "self/cgroup").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    if (line.compare(0, 4, "0::/") == 0) return line.substr(4);
  }
  return {};
}

}  // namespace

FreeMemory LookAtMemory(const std::filesystem::path& proc, const std::filesystem::path& cgroup) {
  FreeMemory free = {.bytes = kUnlimited, .limit = "on this machine"};
  if (const auto text = ReadText(proc / "meminfo")) {
    if (const auto kib = Field(*text, "MemAvailable:")) free.bytes = *kib * 1024;
  }
  std::filesystem::path path = CgroupPath(proc);
  while (true) {
    const std::filesystem::path directory = cgroup / path;
    const std::optional<uint64_t> limit = ReadNumber(directory / "memory.max");
    if (limit.has_value()) {
      const uint64_t used = ReadNumber(directory / "memory.current").value_or(0);
      const std::string stat = ReadText(directory / "memory.stat").value_or("");
      const uint64_t cache =
          Field(stat, "inactive_file ").value_or(0) + Field(stat, "active_file ").value_or(0);
      const uint64_t held = used - std::min(used, cache);
      const uint64_t room = *limit - std::min(*limit, held);
      if (room < free.bytes) {
        free = {.bytes = room, .limit = "under the cgroup limit of " + BytesText(*limit)};
      }
    }
    if (path.empty()) return free;
    path = path.has_parent_path() ? path.parent_path() : std::filesystem::path();
  }
}

std::optional<uint64_t> LastLevelCacheBytes(const std::filesystem::path& cpus) {
  // By level and the CPUs that share it: each of these tells of it.
  std::map<std::pair<uint64_t, std::string>, uint64_t> caches;
  std::error_code error;
  for (const auto& cpu : std::filesystem::directory_iterator(cpus, error)) {
    for (const auto& cache : std::filesystem::directory_iterator(cpu.path() / "cache", error)) {
      const auto level = ReadNumber(cache.path() / "level");
      const auto kib = ReadNumber(cache.path() / "size");  // "32768K"
      const auto shared = ReadText(cache.path() / "shared_cpu_list");
      if (!level.has_value() || !kib.has_value() || !shared.has_value()) continue;
      caches[{*level, *shared}] = *kib * 1024;
    }
  }
  if (caches.empty()) return std::nullopt;
  const uint64_t last_level = caches.rbegin()->first.first;
  uint64_t bytes = 0;
  for (const auto& [key, size] : caches) {
    if (key.first == last_level) bytes += size;
  }
  return bytes;
}

std::string CpuModelName() {
  std::istringstream lines(ReadText("/proc/cpuinfo").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    if (line.compare(0, 10, "model name") != 0) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

}  // namespace tandem::server
