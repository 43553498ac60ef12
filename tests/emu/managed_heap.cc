// operator new on managed memory: blocks of powers of two, cut from chunks of 2 MiB.
#include "tests/emu/managed_heap.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>

namespace tandem::kernels {
namespace {

constexpr int kMinLog2 = 8;  // what cudaMalloc aligns to
constexpr int kChunkLog2 = 21;
constexpr int kMaxLog2 = 40;
constexpr size_t kChunk = size_t{1} << kChunkLog2;

struct FreeBlock {
  FreeBlock* next;
};

struct Heap {
  std::mutex mutex;
  std::byte* begin = nullptr;  // null: not in use
  size_t chunks = 0;
  size_t used_chunks = 0;
  uint8_t* log2_of_chunk = nullptr;  // [chunks] size of the blocks in a chunk, or that begin there
  FreeBlock* free[kMaxLog2 + 1] = {};
};
constinit Heap heap;

void* Allocate(size_t bytes, size_t alignment) {
  if (heap.begin == nullptr) {
    alignment = std::max(alignment, sizeof(void*));
    return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  }
  const std::lock_guard lock(heap.mutex);
  const size_t most = std::max({bytes, alignment, size_t{1}});
  const int log2 = std::max(kMinLog2, static_cast<int>(std::bit_width(most - 1)));
  if (log2 > kMaxLog2) return nullptr;
  if (FreeBlock* block = heap.free[log2]; block != nullptr) {
    heap.free[log2] = block->next;
    return block;
  }
  const size_t chunks = log2 <= kChunkLog2 ? 1 : size_t{1} << (log2 - kChunkLog2);
  if (heap.used_chunks + chunks > heap.chunks) return nullptr;
  std::byte* block = heap.begin + heap.used_chunks * kChunk;
  heap.log2_of_chunk[heap.used_chunks] = static_cast<uint8_t>(log2);
  heap.used_chunks += chunks;
  for (size_t at = size_t{1} << log2; at < kChunk; at += size_t{1} << log2) {
    heap.free[log2] = new (block + at) FreeBlock{heap.free[log2]};
  }
  return block;
}

void Free(void* memory) {
  const size_t at = static_cast<std::byte*>(memory) - heap.begin;
  if (heap.begin == nullptr || static_cast<std::byte*>(memory) < heap.begin ||
      at >= heap.chunks * kChunk) {
    std::free(memory);
    return;
  }
  const std::lock_guard lock(heap.mutex);
  const int log2 = heap.log2_of_chunk[at / kChunk];
  heap.free[log2] = new (memory) FreeBlock{heap.free[log2]};
}

}  // namespace

std::string UseManagedHeap(size_t bytes) {
  int device = 0, concurrent = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&concurrent, cudaDevAttrConcurrentManagedAccess, device);
  if (concurrent == 0) return "the device does not share managed memory with a running host";
  void* memory = nullptr;
  const cudaError_t error = cudaMallocManaged(&memory, bytes);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  heap.chunks = bytes / kChunk;
  heap.log2_of_chunk = static_cast<uint8_t*>(std::calloc(heap.chunks, 1));
  heap.begin = static_cast<std::byte*>(memory);
  return "";
}

}  // namespace tandem::kernels

void* operator new(size_t bytes, std::align_val_t alignment) {
  void* memory = tandem::kernels::Allocate(bytes, static_cast<size_t>(alignment));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new(size_t bytes) { return operator new (bytes, std::align_val_t{16}); }
void operator delete(void* memory) noexcept { tandem::kernels::Free(memory); }
void operator delete(void* memory, size_t) noexcept { tandem::kernels::Free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { tandem::kernels::Free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  tandem::kernels::Free(memory);
}
