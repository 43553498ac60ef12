// Cuts one piece of memory into buffers, each at a multiple of 64 bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tandem::engine {

class BufferCursor {
 public:
  // `base` null: nothing is cut, only counted; what is returned must not be used.
  explicit BufferCursor(std::byte* base) : begin_(reinterpret_cast<uintptr_t>(base)) {}

  void* Bytes(size_t count) { return reinterpret_cast<void*>(Take(count)); }
  float* Floats(size_t count) { return reinterpret_cast<float*>(Take(count * sizeof(float))); }
  int32_t* Ints(size_t count) { return reinterpret_cast<int32_t*>(Take(count * sizeof(int32_t))); }

  size_t used_bytes() const { return used_; }

 private:
  uintptr_t Take(size_t bytes) {
    const uintptr_t at = begin_ + used_;
    used_ += (bytes + 63) / 64 * 64;
    return at;
  }

  uintptr_t begin_ = 0;
  size_t used_ = 0;
};

}  // namespace tandem::engine
