#include "kvcache/block_pool.h"

#include <cassert>
#include <cstddef>

namespace tandem::kvcache {

BlockPool::BlockPool(int32_t num_blocks) : references_(num_blocks, 0) {
  free_.reserve(num_blocks);
  for (int32_t block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

int32_t BlockPool::Allocate() {
  if (free_.empty()) return -1;
  const int32_t block = free_.back();
  free_.pop_back();
  references_[block] = 1;
  return block;
}

void BlockPool::AddReference(int32_t block) {
  assert(references_[block] > 0);
  ++references_[block];
}

void BlockPool::Release(int32_t block) {
  assert(references_[block] > 0);
  if (--references_[block] == 0) free_.push_back(block);
}

}  // namespace tandem::kvcache
