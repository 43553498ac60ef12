#include "kvcache/block_pool.h"

#include <cassert>
#include <cstddef>
#include <cstring>

namespace tandem::kvcache {

size_t BlockPool::KeyHash::operator()(const BlockKey& key) const {
  size_t hash;
  std::memcpy(&hash, key.data(), sizeof(hash));
  return hash;
}

BlockPool::BlockPool(int32_t num_blocks) : blocks_(num_blocks) {
  free_.reserve(num_blocks);
  for (int32_t block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

int32_t BlockPool::Allocate() {
  int32_t block = oldest_;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (block >= 0) {
    Unlink(block);
    ForgetKey(block);
    ++num_evicted_;
  } else {
    return -1;
  }
  blocks_[block].references = 1;
  return block;
}

void BlockPool::AddReference(int32_t block) {
  assert(blocks_[block].references > 0 || blocks_[block].has_key);
  if (blocks_[block].references++ == 0) Unlink(block);
}

void BlockPool::Release(int32_t block) {
  assert(blocks_[block].references > 0);
  if (--blocks_[block].references > 0) return;
  if (blocks_[block].has_key) {
    LinkNewest(block);
  } else {
    free_.push_back(block);
  }
}

void BlockPool::Publish(int32_t block, const BlockKey& key) {
  assert(blocks_[block].references > 0);
  if (blocks_[block].has_key || !by_key_.emplace(key, block).second) return;
  blocks_[block].has_key = true;
  blocks_[block].key = key;
}

int32_t BlockPool::Find(const BlockKey& key) const {
  const auto it = by_key_.find(key);
  return it == by_key_.end() ? -1 : it->second;
}

int32_t BlockPool::FlushCached() {
  const int32_t flushed = num_cached_;
  while (newest_ >= 0) {  // the newest first, so that the oldest is the next to be taken
    const int32_t block = newest_;
    Unlink(block);
    ForgetKey(block);
    free_.push_back(block);
  }
  return flushed;
}

void BlockPool::LinkNewest(int32_t block) {
  blocks_[block].older = newest_;
  blocks_[block].newer = -1;
  (newest_ >= 0 ? blocks_[newest_].newer : oldest_) = block;
  newest_ = block;
  ++num_cached_;
}

void BlockPool::Unlink(int32_t block) {
  const auto [references, older, newer, has_key, key] = blocks_[block];
  (older >= 0 ? blocks_[older].newer : oldest_) = newer;
  (newer >= 0 ? blocks_[newer].older : newest_) = older;
  --num_cached_;
}

void BlockPool::ForgetKey(int32_t block) {
  by_key_.erase(blocks_[block].key);
  blocks_[block].has_key = false;
}

}  // namespace tandem::kvcache
