// The bytes of the blocks of one KV group.
//
// In        a layout and a number of blocks, once.
// Out       views that kernels read and write through.
// Not here  which block is free (block_pool.h), what lies where in a block (layout.h).
// Threads   const after Create; rows are written by kernels, one writer per row.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/memory.h"
#include "kernels/types.h"
#include "kvcache/layout.h"

namespace tandem::kvcache {

class BlockStore {
 public:
  // Reserves num_blocks * layout.block_bytes. Memory of the host is taken from the system when a
  // block is first written.
  //   errors  kInvalidArgument for num_blocks < 1 or a size that does not fit the address space;
  //           kResourceExhausted when the system refuses the reservation
  static absl::StatusOr<BlockStore> Create(
      GroupLayout layout, int32_t num_blocks,
      const kernels::MemorySource& source = kernels::HostMemory());

  // The rows of one layer; `layer` counts the group's layers.
  kernels::KvView View(int layer) const;

  // To be called before the first row of a freshly allocated block is written, that is before a row
  // whose position is a multiple of block_tokens: zeroes the scale planes, so that a row nobody
  // wrote decodes to zero (turboquant 3.7). Does nothing for formats without scales. Memory of the
  // host only; a device never reads what nobody wrote.
  void PrepareBlock(int32_t block);

  // All rows and scales of a block: layout().block_bytes of them.
  std::byte* block(int32_t block) const { return memory_.data() + block * layout_.block_bytes; }

  const GroupLayout& layout() const { return layout_; }
  int32_t num_blocks() const { return num_blocks_; }
  size_t bytes() const { return static_cast<size_t>(num_blocks_) * layout_.block_bytes; }

 private:
  BlockStore(GroupLayout layout, int32_t num_blocks, kernels::Memory memory);

  GroupLayout layout_;
  int32_t num_blocks_ = 0;
  kernels::Memory memory_;  // [num_blocks, block_bytes]
};

}  // namespace tandem::kvcache
