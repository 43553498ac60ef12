#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cuda/host_ring.h"

namespace tandem::kernels::K_WORLD {

absl::StatusOr<HostRing> HostRing::Make(const Device& device, size_t half_bytes) {
  HostRing ring;
  absl::StatusOr<PinnedMemory> memory =
      device.AllocatePinned(2 * half_bytes, "copies to the device");
  if (!memory.ok()) return memory.status();
  ring.memory_ = *std::move(memory);
  for (std::optional<Event>& event : ring.copied_) {
    absl::StatusOr<Event> made = device.MakeEvent();
    if (!made.ok()) return made.status();
    event.emplace(*std::move(made));
  }
  return ring;
}

absl::StatusOr<std::byte*> HostRing::Take(size_t bytes, DeviceStream* stream) {
  constexpr size_t kAlignment = 64;
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (used_ + bytes > half_bytes()) {
    if (absl::Status s = stream->Record(&*copied_[half_]); !s.ok()) return s;
    half_ = 1 - half_;
    used_ = 0;
    if (absl::Status s = copied_[half_]->Wait(); !s.ok()) return s;
  }
  std::byte* const taken = memory_.data() + half_ * half_bytes() + used_;
  used_ += bytes;
  return taken;
}

absl::Status HostRing::Copy(void* to, const void* from, size_t bytes, DeviceStream* stream) {
  for (size_t done = 0; done < bytes;) {
    const size_t count = std::min(bytes - done, half_bytes());
    const absl::StatusOr<std::byte*> room = Take(count, stream);
    if (!room.ok()) return room.status();
    std::memcpy(*room, static_cast<const std::byte*>(from) + done, count);
    if (absl::Status s = stream->CopyToDevice(static_cast<std::byte*>(to) + done, *room, count);
        !s.ok()) {
      return s;
    }
    done += count;
  }
  return absl::OkStatus();
}

}  // namespace tandem::kernels::K_WORLD
