// What --device asks the model to run on.
//
// Not here  whether that is there (server/cli/backends.h).
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config/settings.h"

namespace tandem::server {

struct DeviceSetting {
  enum class Kind { kAuto, kCpu, kCuda, kEmulated };
  Kind kind = Kind::kAuto;
  int index = 0;  // kCuda
};

// auto, cpu, cuda (the first device) or cuda:N; builds with tests also know emu, the first device
// with emulated kernels.
//   errors  kInvalidArgument with what is known
absl::StatusOr<DeviceSetting> ParseDevice(std::string_view text);

// The check of the option's value.
absl::Status CheckDeviceName(std::string_view text);

// Of settings that passed it.
DeviceSetting DeviceOf(const Settings& settings);

// The option with its value that asks for f32 activations or f32 KV, which only the CPU has:
// "--kv-type-k f32". Empty: none does.
std::string F32Option(const Settings& settings);

}  // namespace tandem::server
