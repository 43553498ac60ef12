// Pinned memory through which the host hands small and large things to the stream.
//
// Two halves are filled in turn; a half is filled again when the stream has copied all of it. So
// the host runs ahead of the device by up to a ring.
#pragma once

#include <array>
#include <optional>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"

namespace tandem::kernels::K_WORLD {

class HostRing {
 public:
  static absl::StatusOr<HostRing> Make(const Device& device, size_t half_bytes);

  size_t half_bytes() const { return memory_.size() / 2; }

  // Room for up to half_bytes(), to be given to `stream` before the next call. May wait.
  absl::StatusOr<std::byte*> Take(size_t bytes, DeviceStream* stream);

  // Copies `bytes` of any host memory, of any size.
  absl::Status Copy(void* to, const void* from, size_t bytes, DeviceStream* stream);

 private:
  PinnedMemory memory_;
  std::array<std::optional<Event>, 2> copied_;
  int half_ = 0;
  size_t used_ = 0;  // of the half
};

}  // namespace tandem::kernels::K_WORLD
