// Behind the fused q/k/v projection: norms, rope, rotation; K and V into their blocks.
#pragma once

#include "kernels/cuda/kport.h"
#include "kernels/cuda/kv_store.h"
#include "kernels/types.h"

namespace tandem::kernels::K_WORLD {

// q heads: RmsNorm with q_norm, then rope, then the rotation of turboquant 1.2 where K rows are
// rotated; in place (below). k heads: RmsNorm with k_norm, then rope, stored. v heads: RmsNorm
// without weight, stored; without v columns, v is made from the k columns as projected (gemma4.md
// 2.5). Dimension j is paired with j + head_dim/2; only pairs j < live are roped. All arrays but
// cells, nonfinite and counts are 16-byte aligned.
struct QkvPostArgs {
  // [rows, stride]: q heads, k heads, v heads, head-major. q comes back as attention takes it, 16
  // bits a value over the first half of the head's own bytes: of bf16 where K is stored in bf16, of
  // f16 otherwise. In 16-bit units head n starts at 2 * head_dim * n, rows are 2 * stride apart.
  float* qkv = nullptr;
  int64_t stride = 0;  // a multiple of 8
  int rows = 0;        // rows * heads < 2^31
  int num_q_heads = 0;
  int num_kv_heads = 0;  // 0: a layer that shares KV; nothing is stored
  int head_dim = 0;
  bool has_v = true;
  const float* q_norm = nullptr;  // [head_dim]
  const float* k_norm = nullptr;  // [head_dim]
  const float* cos = nullptr;     // [rows, live]
  const float* sin = nullptr;     // [rows, live]
  int live = 0;
  float eps = 0.0f;
  KvView kv;                       // of a layer that shares KV: its donor's
  const int32_t* cells = nullptr;  // [rows] block * block_tokens + cell, or -1: K and V not stored
  int32_t* nonfinite = nullptr;    // [rows] counts the row's K and V that are not finite, or null
  KvRowCounts* counts = nullptr;   // or null
};

// Whether a kernel was built for this layer: head_dim 256 or 512, every format but kF32, live a
// multiple of 16 up to head_dim/2. Asked when a model is loaded.
bool QkvPostSupports(int head_dim, int live, KvFormat k_format, KvFormat v_format);

void QkvPost(const QkvPostArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
