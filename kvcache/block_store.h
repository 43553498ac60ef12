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
#include "kernels/huge_memory.h"
#include "kernels/types.h"
#include "kvcache/layout.h"

namespace tandem::kvcache {

class BlockStore {
 public:
  // Reserves num_blocks * layout.block_bytes of address space in huge pages where the system grants
  // them. Memory is taken from the system when a block is first written.
  //   errors  kInvalidArgument for num_blocks < 1 or a size that does not fit the address space;
  //           kResourceExhausted when the system refuses the reservation
  static absl::StatusOr<BlockStore> Create(GroupLayout layout, int32_t num_blocks);

  // The rows of one layer; `layer` counts the group's layers.
  kernels::KvView View(int layer) const;

  // To be called before the first row of a freshly allocated block is written, that is before a row
  // whose position is a multiple of block_tokens: zeroes the scale planes, so that a row nobody
  // wrote decodes to zero (turboquant 3.7). Does nothing for formats without scales.
  void PrepareBlock(int32_t block);

  // Makes block `to` hold the same bytes as block `from`, another one: rows, scales and all.
  void CopyBlock(int32_t from, int32_t to);

  const GroupLayout& layout() const { return layout_; }
  int32_t num_blocks() const { return num_blocks_; }
  size_t bytes() const { return static_cast<size_t>(num_blocks_) * layout_.block_bytes; }

 private:
  BlockStore(GroupLayout layout, int32_t num_blocks, kernels::HugeMemory memory);

  GroupLayout layout_;
  int32_t num_blocks_ = 0;
  kernels::HugeMemory memory_;  // [num_blocks, block_bytes]
};

}  // namespace tandem::kvcache
