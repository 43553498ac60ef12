// Which cached blocks can stand for the first rows of a sequence.
//
// A row at position n sees every earlier row in full layers and rows from n - window + 1 on in
// sliding ones. So a prefix of n tokens is whole when the full group has all its blocks and the
// sliding group those that overlap [max(0, n - window + 1), n).
//
// In        the keys of a sequence's full blocks, in order (block_key.h).
// Out       how much of it is there; block tables that hold it.
// Not here  how far a request may use it, which blocks to publish (scheduler/).
// Threads   scheduler thread only.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "kvcache/block_key.h"
#include "kvcache/block_pool.h"
#include "kvcache/block_table.h"

namespace tandem::kvcache {

// Of one model. Null for a group that the model does not have; it has at least one.
struct PrefixPools {
  BlockPool* sliding = nullptr;
  BlockPool* full = nullptr;
  int block_tokens = 0;
  int window = 0;  // rows that a row of a sliding layer sees, itself included; at least 1
};

struct PrefixHit {
  int tokens = 0;  // a multiple of block_tokens
  // Blocks of the hit that nobody holds, [0] sliding, [1] full: they leave num_free when taken.
  std::array<int32_t, 2> unheld = {};
  // Tokens that the full group has on top, but whose sliding window is no longer whole.
  int lost_to_window = 0;
};

// The longest prefix of at most max_tokens tokens that is whole. Pure.
//   keys  [i] of the sequence's block i; the prefix does not go beyond them
PrefixHit FindPrefix(const PrefixPools& pools, std::span<const BlockKey> keys, int max_tokens);

// Takes references on the blocks of the first `tokens` tokens, as FindPrefix found them and with no
// change of the pools since, and enters them. Sliding blocks that no later row sees stay out.
//   tables  empty; null for an absent group
void TakePrefix(const PrefixPools& pools, std::span<const BlockKey> keys, int tokens,
                BlockTable* sliding, BlockTable* full);

}  // namespace tandem::kvcache
