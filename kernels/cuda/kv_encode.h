// The encoder of KV rows on its own: what start-up checks against published vectors, and tests
// against the reference without norms before it.
#pragma once

#include "kernels/cuda/kport.h"
#include "kernels/cuda/kv_store.h"
#include "kernels/types.h"

namespace tandem::kernels::K_WORLD {

// Stores x[t, h, :] as the K (or V) row of head h in cells[t], with the bytes of
// EncodeRowReference (kernels/reference/kv_row_ref.h).
struct EncodeKvRowsArgs {
  const float* x = nullptr;  // [rows, num_heads, head_dim], 16-byte aligned
  int rows = 0;
  int num_heads = 0;
  int head_dim = 0;
  KvView kv;
  bool store_v = false;            // false: K
  const int32_t* cells = nullptr;  // [rows] block * block_tokens + cell, or -1: not stored
  int32_t* nonfinite = nullptr;    // [rows] counts the row's heads that are not finite, or null
  KvRowCounts* counts = nullptr;   // or null
};

// Whether rows of this size and format can be stored: 256 or 512 values, every format but kF32.
// Asked when a model is loaded.
bool EncodeKvRowsSupports(int head_dim, KvFormat format);

void EncodeKvRows(const EncodeKvRowsArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
