// The part of attention that differs by instruction set: one chunk of packed rows, one fold.
//
// Included by instruction-set files: raw pointers only; they call no inline function of types.h.
#pragma once

#include <stdint.h>

#include "kernels/types.h"

namespace tandem::kernels {

constexpr int kAttentionTile = 16;    // positions whose K (V) rows are used together, from L1
constexpr int kAttentionChunk = 128;  // positions with one softmax; part of the numerics
constexpr int kChunkTiles = kAttentionChunk / kAttentionTile;
constexpr int kMaxPackedRows = 64;  // (row, query head) pairs that share one reading of K and V
constexpr int kMaxHeadDim = 512;

// One chunk of the positions of one KV head, for `rows` packed rows that attend to it. Positions
// count from the chunk's first one.
struct AttentionChunk {
  int rows;                        // 1..kMaxPackedRows
  int head_dim;                    // 256 or 512
  const float* q[kMaxPackedRows];  // [head_dim] each
  // Row r sees positions [begin[r], end[r]); none when end[r] <= begin[r].
  int begin[kMaxPackedRows];
  int end[kMaxPackedRows];
  // The K and V row of each tile's first position; null for a tile that no row sees. Rows of one
  // tile follow each other without gaps. Only visible positions need to hold numbers.
  const void* k[kChunkTiles];
  const void* v[kChunkTiles];
  const void* k_ahead;  // a K tile that will be needed next, or null; speed only
  KvFormat k_format;
  KvFormat v_format;

  float* scores;  // scratch [rows, kAttentionChunk]
  // Out, per row: m = max score, l = sum exp(score - m), o [head_dim] = sum exp(score - m) v.
  // A row that sees nothing has m = -inf, l = 0 and any o.
  float* m;
  float* l;
  float* o;  // [rows, head_dim]
};

struct AttentionKernels {
  void (*chunk)(const AttentionChunk& chunk);

  // Folds the sums of the next chunk into a row's sums (kernels.md 5.1.6, base e). A side that has
  // m = -inf leaves the other as it is.
  void (*fold)(float part_m, float part_l, const float* part_o, float* m, float* l, float* o,
               int head_dim);

  // o /= l; zeros when l = 0, whatever o held.
  void (*finish)(float l, float* o, int head_dim);
};

extern const AttentionKernels kAttentionKernelsAvx2;
extern const AttentionKernels kAttentionKernelsAvx512;

}  // namespace tandem::kernels
