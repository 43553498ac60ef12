#include "kvcache/prefix.h"

#include <algorithm>
#include <cassert>

namespace tandem::kvcache {
namespace {

// The first of `blocks` blocks that the row behind them sees in sliding layers.
int FirstInWindow(const PrefixPools& pools, int blocks) {
  return std::max(0, blocks * pools.block_tokens - pools.window + 1) / pools.block_tokens;
}

// How many of `keys`, from the first on, the pool has.
int ChainLength(const BlockPool& pool, std::span<const BlockKey> keys) {
  int length = 0;
  while (length < static_cast<int>(keys.size()) && pool.Find(keys[length]) >= 0) ++length;
  return length;
}

// The greatest number of blocks, up to keys.size(), whose window the sliding pool has.
int LastWholeWindow(const PrefixPools& pools, std::span<const BlockKey> keys) {
  // Every prefix that ends behind a missing block and sees it is cut there. As a shorter prefix
  // sees no later blocks but those seen before, no block is looked up twice.
  int blocks = static_cast<int>(keys.size());
  for (int i = blocks - 1; i >= FirstInWindow(pools, blocks); --i) {
    if (pools.sliding->Find(keys[i]) < 0) blocks = i;
  }
  return blocks;
}

int32_t CountUnheld(const BlockPool& pool, std::span<const BlockKey> keys) {
  return static_cast<int32_t>(std::count_if(keys.begin(), keys.end(), [&](const BlockKey& key) {
    return pool.references(pool.Find(key)) == 0;
  }));
}

void Take(BlockPool& pool, std::span<const BlockKey> keys, int first, BlockTable& table) {
  assert(table.blocks.empty());
  table.blocks.assign(first, -1);
  table.first_held = first;
  for (const BlockKey& key : keys.subspan(first)) {
    const int32_t block = pool.Find(key);
    assert(block >= 0);
    pool.AddReference(block);
    table.blocks.push_back(block);
  }
}

}  // namespace

PrefixHit FindPrefix(const PrefixPools& pools, std::span<const BlockKey> keys, int max_tokens) {
  const size_t most = static_cast<size_t>(std::max(0, max_tokens) / pools.block_tokens);
  keys = keys.first(std::min(keys.size(), most));
  PrefixHit hit;
  if (pools.full != nullptr) keys = keys.first(ChainLength(*pools.full, keys));
  if (pools.sliding != nullptr) {
    const int blocks = LastWholeWindow(pools, keys);
    if (pools.full != nullptr) {
      hit.lost_to_window = (static_cast<int>(keys.size()) - blocks) * pools.block_tokens;
    }
    keys = keys.first(blocks);
    hit.unheld[0] = CountUnheld(*pools.sliding, keys.subspan(FirstInWindow(pools, blocks)));
  }
  if (pools.full != nullptr) hit.unheld[1] = CountUnheld(*pools.full, keys);
  hit.tokens = static_cast<int>(keys.size()) * pools.block_tokens;
  return hit;
}

void TakePrefix(const PrefixPools& pools, std::span<const BlockKey> keys, int tokens,
                BlockTable* sliding, BlockTable* full) {
  const int blocks = tokens / pools.block_tokens;
  keys = keys.first(blocks);
  if (pools.sliding != nullptr) Take(*pools.sliding, keys, FirstInWindow(pools, blocks), *sliding);
  if (pools.full != nullptr) Take(*pools.full, keys, 0, *full);
}

}  // namespace tandem::kvcache
