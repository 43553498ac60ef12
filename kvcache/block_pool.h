// Who holds which block of one KV group: free list and reference counts.
//
// In        allocations and releases, from block tables.
// Out       block ids; free and used counts for planning and metrics.
// Not here  the bytes of a block (block_store.h); whom to preempt (scheduler/plan_step.h).
// Threads   scheduler thread only.
#pragma once

#include <cstdint>
#include <vector>

namespace tandem::kvcache {

class BlockPool {
 public:
  explicit BlockPool(int32_t num_blocks);

  // A free block with one reference, the one released last first; -1 when none is free.
  int32_t Allocate();
  // One more holder of an allocated block.
  void AddReference(int32_t block);
  // One holder less; the last one frees the block.
  void Release(int32_t block);

  int32_t num_blocks() const { return static_cast<int32_t>(references_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t num_used() const { return num_blocks() - num_free(); }
  int references(int32_t block) const { return references_[block]; }

 private:
  std::vector<int32_t> free_;        // a stack: what was used last is still in the caches
  std::vector<int32_t> references_;  // [num_blocks], 0: free
};

}  // namespace tandem::kvcache
