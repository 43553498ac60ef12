#include "server/cli/doctor_machine.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "kernels/cpu/cpu_features.h"
#include "server/cli/format.h"

namespace tandem::server {
namespace {

using Level = Finding::Level;

constexpr uint64_t kFewOpenFiles = 1024;

Finding Pass(std::string name, std::string text) {
  return {.level = Level::kPass, .name = std::move(name), .text = std::move(text)};
}
Finding Warn(std::string name, std::string text, std::string advice) {
  return {Level::kWarn, std::move(name), std::move(text), std::move(advice)};
}
Finding Fail(std::string name, std::string text, std::string advice) {
  return {Level::kFail, std::move(name), std::move(text), std::move(advice)};
}

std::string IsaText(kernels::CpuIsa isa) {
  return isa == kernels::CpuIsa::kRef ? "plain loops" : std::string(kernels::CpuIsaName(isa));
}

// Binds a socket to `listen` and closes it.
//   returns  0, or what bind() says; a name that is not known is an error of its own
absl::StatusOr<int> TryToBind(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  std::string host = listen.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int unknown = getaddrinfo(host.c_str(), listen.substr(colon + 1).c_str(), &hints, &found);
  if (unknown != 0) return absl::NotFoundError(gai_strerror(unknown));
  const int descriptor = socket(found->ai_family, SOCK_STREAM, 0);
  int error = descriptor < 0 ? errno : 0;
  if (descriptor >= 0) {
    const int on = 1;  // as a server does: connections that are closing do not count
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(descriptor, found->ai_addr, found->ai_addrlen) != 0) error = errno;
    close(descriptor);
  }
  freeaddrinfo(found);
  return error;
}

}  // namespace

Finding CheckCpu(const std::string& cpu_name, std::string_view asked, kernels::CpuIsa best) {
  const std::string text = absl::StrFormat(
      "%s, kernels for %s", cpu_name.empty() ? "unknown CPU" : cpu_name, IsaText(best));
  if (asked != "auto") {
    const absl::StatusOr<kernels::CpuIsa> isa = kernels::ParseCpuIsa(asked);
    if (!isa.ok() || *isa > best) {
      return Fail(
          "cpu", text,
          absl::StrFormat("--cpu-isa %s is more than it has; leave it out", std::string(asked)));
    }
    if (*isa < best) {
      return Warn(
          "cpu", text,
          absl::StrFormat("--cpu-isa %s uses less than that; leave it out", std::string(asked)));
    }
  }
  if (best == kernels::CpuIsa::kRef) {
    return Warn("cpu", text,
                "very slow; take a machine (or a virtual CPU type) with AVX2 or AVX-512");
  }
  return Pass("cpu", text);
}

Finding CheckThreads(int asked, int cpus, std::optional<double> quota) {
  const int granted = kernels::DefaultThreads(cpus, quota);
  const int threads = asked > 0 ? asked : granted;
  const std::string limit = quota.has_value()
                                ? absl::StrFormat("a cgroup quota of %.2g CPUs", *quota)
                                : "no cgroup quota";
  const std::string text = absl::StrFormat("%d, on %d CPUs with %s", threads, cpus, limit);
  if (threads > granted) {
    return Warn("threads", text,
                absl::StrFormat("threads beyond the CPUs wait for each other; lower --threads to "
                                "%d, or leave it out",
                                granted));
  }
  if (quota.has_value() && *quota < 1.0) {
    return Warn("threads", text,
                "the process is stopped for part of every period; grant at least one whole CPU");
  }
  return Pass("threads", text);
}

Finding CheckHugePages(const std::filesystem::path& sys) {
  std::ifstream file(sys / "kernel/mm/transparent_hugepage/enabled");
  std::string modes;
  std::getline(file, modes);
  if (modes.find("[always]") != std::string::npos) return Pass("huge pages", "always");
  if (modes.find("[madvise]") != std::string::npos) {
    return Pass("huge pages", "on request, and the weights ask for them");
  }
  if (modes.find("[never]") != std::string::npos) {
    return Warn("huge pages", "off, so reading the weights is slower",
                "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, as root on the host");
  }
  return Warn("huge pages", "this kernel does not say whether it has them",
              "nothing, if this is a sandbox; else enable CONFIG_TRANSPARENT_HUGEPAGE");
}

Finding CheckFreeMemory(const FreeMemory& free) {
  const std::string text = BytesText(static_cast<double>(free.bytes)) + " free " + free.limit;
  constexpr uint64_t kLittle = uint64_t{512} << 20;
  if (free.bytes < kLittle) {
    return Warn("memory", text, "only toys fit; free memory, or raise the limit of the container");
  }
  return Pass("memory", text);
}

Finding CheckOpenFiles(uint64_t limit) {
  const std::string text =
      limit > INT64_MAX ? "no limit" : CountText(static_cast<int64_t>(limit)) + " at a time";
  if (limit < kFewOpenFiles) {
    return Warn(
        "open files", text,
        "every connection takes one; raise it: ulimit -n 65536, or LimitNOFILE of the unit");
  }
  return Pass("open files", text);
}

Finding CheckPort(const std::string& option, const std::string& listen) {
  const std::string name = option.substr(2, 4) + " port";  // "grpc port"
  const std::string asked = option + " " + listen;
  const absl::StatusOr<int> error = TryToBind(listen);
  if (!error.ok()) {
    return Fail(name, asked + ": " + std::string(error.status().message()),
                "give an address of this machine, or 0.0.0.0");
  }
  switch (*error) {
    case 0:
      return Pass(name, listen + " is free");
    case EADDRINUSE:
      return Fail(name, asked + " is in use",
                  "stop what listens there, or choose another port with " + option);
    case EACCES:
      return Fail(name, asked + " needs privileges", "choose a port from 1024 on with " + option);
    case EADDRNOTAVAIL:
      return Fail(name, asked + " is no address of this machine",
                  "give one of its addresses, or 0.0.0.0");
    default:
      return Fail(name, asked + ": " + std::strerror(*error), "choose another with " + option);
  }
}

std::optional<Finding> CheckFileSystem(const std::filesystem::path& directory) {
  struct Remote {
    unsigned long magic;
    const char* name;
  };
  constexpr std::array<Remote, 8> kRemote = {{{0x6969, "NFS"},
                                              {0x517B, "SMB"},
                                              {0xFF534D42, "CIFS"},
                                              {0xFE534D42, "SMB"},
                                              {0x00C36400, "Ceph"},
                                              {0x0BD00BD0, "Lustre"},
                                              {0x01021997, "9P"},
                                              {0x65735546, "FUSE"}}};
  struct statfs status = {};
  if (statfs(directory.c_str(), &status) != 0) return std::nullopt;
  for (const Remote& remote : kRemote) {
    if (static_cast<unsigned long>(status.f_type) != remote.magic) continue;
    return Warn("model disk", absl::StrFormat("%s is on %s", directory.string(), remote.name),
                "loading is as fast as that is, and per-layer embeddings are read while serving; "
                "copy the model to a local disk");
  }
  return Pass("model disk", directory.string() + " is on a local file system");
}

}  // namespace tandem::server
