// Anonymous memory for large arrays: zeroed, 2 MiB aligned, huge pages where the kernel gives them.
//
// Decode reads every weight once a step; with 4 KiB pages address translation costs 10 to 16 % of
// that rate. Pages are backed when first touched.
#pragma once

#include <cstddef>
#include <utility>

#include "absl/status/statusor.h"

namespace tandem::kernels {

class HugeMemory {
 public:
  HugeMemory() = default;
  HugeMemory(HugeMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  HugeMemory& operator=(HugeMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~HugeMemory();

  // ResourceExhausted when the address space or a limit does not allow it. 0 bytes are fine.
  static absl::StatusOr<HugeMemory> Allocate(size_t bytes);

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;  // as mapped, a multiple of 2 MiB
};

}  // namespace tandem::kernels
