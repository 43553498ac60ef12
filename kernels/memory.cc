#include "kernels/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_format.h"

namespace tandem::kernels {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

absl::StatusOr<Memory> AllocateHuge(void*, size_t bytes) {
  if (bytes == 0) return Memory();
  const size_t size = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  // Map one huge page more than needed and give back what lies outside the aligned range.
  void* mapped = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrFormat("%.1f GiB of memory can not be mapped: %s",
                                                        static_cast<double>(bytes) / (1 << 30),
                                                        strerror(errno)));
  }
  const uintptr_t begin = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t aligned = (begin + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > begin) munmap(mapped, aligned - begin);
  if (const size_t tail = begin + kHugePage - aligned; tail > 0) {
    munmap(reinterpret_cast<void*>(aligned + size), tail);
  }
  std::byte* const data = reinterpret_cast<std::byte*>(aligned);
  madvise(data, size, MADV_HUGEPAGE);  // advice: a kernel without huge pages may refuse
  return Memory(data, size, [](void*, std::byte* mapped_data, size_t mapped_size) {
    munmap(mapped_data, mapped_size);
  });
}

}  // namespace

MemorySource HostMemory() { return {.allocate = AllocateHuge}; }

}  // namespace tandem::kernels
