// Who holds which block of one KV group: free list, reference counts, prefix keys.
//
// A block is held (it has holders), cached (nobody holds it, but it has a key and can be found
// again) or free. Cached blocks give way to new ones, the least recently released first.
//
// In        allocations and releases, from block tables; keys of full blocks.
// Out       block ids; free, used and evicted counts for planning and metrics.
// Not here  the bytes of a block (block_store.h); what a key says (block_key.h); which blocks are
//           a prefix (prefix.h); whom to preempt (scheduler/plan_step.h).
// Threads   scheduler thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kvcache/block_key.h"

namespace tandem::kvcache {

class BlockPool {
 public:
  explicit BlockPool(int32_t num_blocks);

  // A block that nobody needs, with one reference: a free one, the one released last first; else
  // the cached one that was released longest ago, whose key is forgotten. -1 when all are held.
  int32_t Allocate();
  // One more holder of a held or cached block.
  void AddReference(int32_t block);
  // One holder less of a held block. The last one's makes it cached when it has a key, else free.
  void Release(int32_t block);

  // Makes a held block findable, whose rows are all committed and will never be written again. Does
  // nothing when it has a key already, or when another block has this one: the first is kept.
  void Publish(int32_t block, const BlockKey& key);
  // The held or cached block with that key; -1 when there is none.
  int32_t Find(const BlockKey& key) const;
  // Makes every cached block free. Held ones stay findable.
  //   returns  how many these were
  int32_t FlushCached();

  int32_t num_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  // What Allocate can give: free and cached blocks.
  int32_t num_free() const { return static_cast<int32_t>(free_.size()) + num_cached_; }
  int32_t num_cached() const { return num_cached_; }
  int32_t num_used() const { return num_blocks() - num_free(); }  // held
  int64_t num_evicted() const { return num_evicted_; }  // cached blocks that Allocate ever gave
  int references(int32_t block) const { return blocks_[block].references; }
  bool has_key(int32_t block) const { return blocks_[block].has_key; }

 private:
  struct Block {
    int32_t references = 0;
    int32_t older = -1;  // neighbours in the list of cached blocks
    int32_t newer = -1;
    bool has_key = false;
    BlockKey key = {};
  };
  // Keys are digests already: any 8 bytes of them are as good as the next.
  struct KeyHash {
    size_t operator()(const BlockKey& key) const;
  };

  void LinkNewest(int32_t block);
  void Unlink(int32_t block);
  void ForgetKey(int32_t block);

  std::vector<int32_t> free_;  // a stack: what was used last is still in the caches
  std::vector<Block> blocks_;  // [num_blocks]
  absl::flat_hash_map<BlockKey, int32_t, KeyHash> by_key_;
  int32_t oldest_ = -1;  // ends of the list of cached blocks
  int32_t newest_ = -1;
  int32_t num_cached_ = 0;
  int64_t num_evicted_ = 0;
};

}  // namespace tandem::kvcache
