// The part of attention that differs by instruction set: one query, one chunk of packed rows, one
// fold, one finished row.
//
// Included by instruction-set files: raw pointers only; they call no inline function of types.h or
// kv_row.h.
#pragma once

#include <stdint.h>

#include "kernels/kv_row.h"
#include "kernels/types.h"

namespace tandem::kernels {

constexpr int kAttentionTile = 16;    // positions whose K (V) rows are used together, from L1
constexpr int kAttentionChunk = 128;  // positions with one softmax; part of the numerics
constexpr int kChunkTiles = kAttentionChunk / kAttentionTile;
constexpr int kMaxTilesAhead = 2;   // K tiles of the next chunk that a chunk may ask memory for
constexpr int kMaxPackedRows = 64;  // (row, query head) pairs that share one reading of K and V
constexpr int kMaxHeadDim = 512;

// Rotated queries of packed rows in 8 bits, as K formats with a scale meet them (turboquant 3.2).
struct AttentionQueries {
  // [rows, head_dim], in the order in which the level decodes a row of the K format.
  alignas(64) int8_t codes[kMaxPackedRows * kMaxHeadDim];
  float step[kMaxPackedRows];    // (R q)[i] is about step * 128 * code[i]
  float offset[kMaxPackedRows];  // what the level adds to a dot product of its bytes
};

// A rotated query, not scaled, whose largest value lies outside of this is 0, or not a number.
constexpr float kMinQueryMax = 1e-30f;
constexpr float kMaxQueryMax = 3e38f;
// Weights of V rows are rounded to 16 bits of the largest; below this all of them are 0.
constexpr float kMinWeight = 1e-30f;

// One chunk of the positions of one KV head, for `rows` packed rows that attend to it. Positions
// count from the chunk's first one.
struct AttentionChunk {
  int rows;                         // 1..kMaxPackedRows
  int head_dim;                     // 256 or 512
  const float* q[kMaxPackedRows];   // [head_dim] each; K formats without a scale
  const AttentionQueries* queries;  // K formats with a scale
  // Row r sees positions [begin[r], end[r]); none when end[r] <= begin[r].
  int begin[kMaxPackedRows];
  int end[kMaxPackedRows];
  // The K and V row of each tile's first position; codes are null for a tile that no row sees. Rows
  // of one tile follow each other without gaps, in each of their parts. Only visible positions need
  // to hold numbers.
  KvRow k[kChunkTiles];
  KvRow v[kChunkTiles];
  KvRow k_ahead[kMaxTilesAhead];  // K tiles that will be needed next, or null; speed only
  KvFormat k_format;
  KvFormat v_format;

  float* scores;  // scratch [rows, kAttentionChunk]
  int8_t* tile;   // scratch [kAttentionTile, head_dim], 64-byte aligned
  // Out, per row: m = max score, l = sum exp(score - m), o [head_dim] = sum exp(score - m) v, v in
  // its format's space and in the order in which the level decodes it. A row that sees nothing has
  // m = -inf, l = 0 and any o.
  float* m;
  float* l;
  float* o;  // [rows, head_dim]
};

struct AttentionKernels {
  // q [head_dim] becomes row `row` of `queries`, for a K format with a scale.
  void (*prepare)(const float* q, KvFormat k_format, int head_dim, int row,
                  AttentionQueries* queries);

  void (*chunk)(const AttentionChunk& chunk);

  // Folds the sums of the next chunk into a row's sums (kernels.md 5.1.6, base e). A side that has
  // seen nothing (l = 0) leaves the other as it is.
  void (*fold)(float part_m, float part_l, const float* part_o, float* m, float* l, float* o,
               int head_dim);

  // A row's sums become its result: o / l in the model's own space and order; zeros when l = 0,
  // whatever o held.
  void (*finish)(float l, float* o, KvFormat v_format, int head_dim);
};

extern const AttentionKernels kAttentionKernelsAvx2;
extern const AttentionKernels kAttentionKernelsAvx512;
extern const AttentionKernels kAttentionKernelsAvx512Bf16;

}  // namespace tandem::kernels
