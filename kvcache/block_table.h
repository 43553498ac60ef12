// The blocks of one sequence in one KV group, by position.
//
// Entry i holds positions i*block_tokens .. (i+1)*block_tokens - 1. Entries keep their index for
// the life of the sequence (no ring); one that no row can see any more is released and becomes -1.
//
// Not here  which positions are visible (scheduler/ knows the window), who else holds a block
//           (block_pool.h).
// Threads   scheduler thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "kvcache/block_pool.h"

namespace tandem::kvcache {

struct BlockTable {
  std::vector<int32_t> blocks;  // block ids; -1 where released
  int first_held = 0;           // entries below are released, entries from here on are held

  int num_held() const { return static_cast<int>(blocks.size()) - first_held; }
};

// Entries that cover `tokens` positions.
constexpr int BlocksFor(int64_t tokens, int block_tokens) {
  return static_cast<int>((tokens + block_tokens - 1) / block_tokens);
}

// Makes the table cover positions below `tokens`. All or nothing: false, and no change, when the
// pool has too few blocks that nobody holds.
bool Grow(BlockTable& table, BlockPool& pool, int block_tokens, int tokens);

// Releases every block whose last position is below `first_visible`.
//   returns  number of blocks released
int ReleaseBelow(BlockTable& table, BlockPool& pool, int block_tokens, int first_visible);

// Releases every block that holds no position below `tokens`, as if the table had never grown
// further. What was released below stays so.
void Truncate(BlockTable& table, BlockPool& pool, int block_tokens, int tokens);

// Releases everything, the last block first: of cached blocks the tail of a sequence is evicted
// before what it stands on. The table is empty afterwards.
void Free(BlockTable& table, BlockPool& pool);

}  // namespace tandem::kvcache
