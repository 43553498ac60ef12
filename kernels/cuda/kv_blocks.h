// Whole KV blocks: made ready for their first row, and copied.
//
// Not here  rows of a block (kv_store.h); which block is free (kvcache/block_pool.h).
#pragma once

#include "kernels/cuda/kport.h"
#include "kernels/types.h"

namespace tandem::kernels::K_WORLD {

// Zeroes the scales of one layer in freshly allocated blocks, so that a row nobody wrote decodes to
// zero (turboquant 3.7). No work where neither format has scales.
struct ZeroKvScalesArgs {
  KvView kv;
  int num_kv_heads = 0;
  const int32_t* blocks = nullptr;  // [count] ids; a negative one is passed over
  int count = 0;
};

// Block copies[i][1] = block copies[i][0], every byte of all layers. No block is both source and
// destination of one call, nor twice a destination.
struct CopyKvBlocksArgs {
  std::byte* base = nullptr;        // of the pool: block b at base + b * block_bytes
  size_t block_bytes = 0;           // a multiple of 128
  const int32_t* copies = nullptr;  // [count, 2] from, to; a negative `from` is passed over
  int count = 0;                    // up to 65535
};

void ZeroKvScales(const ZeroKvScalesArgs& args, Stream stream);
void CopyKvBlocks(const CopyKvBlocksArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
