// Memory that the operations of a backend read and write, and where it comes from.
#pragma once

#include <cstddef>
#include <utility>

#include "absl/status/statusor.h"

namespace tandem::kernels {

// One owned piece of memory, zeroed when it is made. On a device the host must not look inside.
class Memory {
 public:
  using Release = void (*)(void* context, std::byte* data, size_t size);

  Memory() = default;
  Memory(std::byte* data, size_t size, Release release, void* context = nullptr)
      : data_(data), size_(size), release_(release), context_(context) {}
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(release_, other.release_);
    std::swap(context_, other.context_);
    return *this;
  }
  ~Memory() {
    if (data_ != nullptr) release_(context_, data_, size_);
  }

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }  // at least what was asked for

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  Release release_ = nullptr;
  void* context_ = nullptr;
};

// ResourceExhausted where the memory can not be had. 0 bytes are fine.
struct MemorySource {
  absl::StatusOr<Memory> (*allocate)(void* context, size_t bytes) = nullptr;
  void* context = nullptr;

  absl::StatusOr<Memory> Allocate(size_t bytes) const { return allocate(context, bytes); }
};

// Of the host: 2 MiB aligned, huge pages where the system gives them. Decode reads every weight
// once a step; with 4 KiB pages address translation costs 10 to 16 % of that rate. Pages are backed
// when first touched.
MemorySource HostMemory();

}  // namespace tandem::kernels
