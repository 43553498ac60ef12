#include "kvcache/block_table.h"

#include <algorithm>

namespace tandem::kvcache {

bool Grow(BlockTable& table, BlockPool& pool, int block_tokens, int tokens) {
  const int missing = BlocksFor(tokens, block_tokens) - static_cast<int>(table.blocks.size());
  if (missing > pool.num_free()) return false;
  for (int i = 0; i < missing; ++i) table.blocks.push_back(pool.Allocate());
  return true;
}

int ReleaseBelow(BlockTable& table, BlockPool& pool, int block_tokens, int first_visible) {
  const int end = std::min(first_visible / block_tokens, static_cast<int>(table.blocks.size()));
  int released = 0;
  for (; table.first_held < end; ++table.first_held, ++released) {
    pool.Release(table.blocks[table.first_held]);
    table.blocks[table.first_held] = -1;
  }
  return released;
}

void Truncate(BlockTable& table, BlockPool& pool, int block_tokens, int tokens) {
  const int keep = std::max(BlocksFor(tokens, block_tokens), table.first_held);
  // Backwards, so that the next sequence gets them in the same order.
  while (static_cast<int>(table.blocks.size()) > keep) {
    pool.Release(table.blocks.back());
    table.blocks.pop_back();
  }
}

void Free(BlockTable& table, BlockPool& pool) {
  for (int i = static_cast<int>(table.blocks.size()) - 1; i >= table.first_held; --i) {
    pool.Release(table.blocks[i]);
  }
  table.blocks.clear();
  table.first_held = 0;
}

}  // namespace tandem::kvcache
