// What split and direct attention share: the packed rows of an item and their softmax, which runs
// over tiles of 32 positions.
//
//   x_j = (q . K_j) * sigma_K[j] * log2(e);  p_j = 2^(x_j - m);  l = sum p_j
//   o = sum (p_j * sigma_V[j]) V_j                       sigma: the rows' scales, or 1
//
// Rows      of a block: 16 * m_tiles pairs (row of the part, head of the group), packed, so that
//           one read of K and V serves a whole group and all rows of a part.
// Block     of D/64 warps. Warp w owns dimensions [64 w, 64 w + 64) of q, K and the output: K and V
//           go from memory to registers, decoded there (kv_operand.h), once.
// Tile      aligned to 32: QK^T of each warp's dimensions to shared memory; barrier; scores,
//           intervals, maxima and weights, a position per lane, all rows of a warp side by side;
//           barrier; PV. Two halves of 16 positions have their own block.
// Order     of sums: 16 dimensions by one instruction, four of them, then warps pairwise; positions
//           by butterflies, tiles ascending. All of it fixed by the head size; a tile that a row
//           does not see leaves its sums as they are.
// Operands  f16, bf16 where K or V is stored in bf16. Weights are rounded once, behind sigma_V.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_fold.h"
#include "kernels/cuda/attention_instances.h"
#include "kernels/cuda/kport.h"
#include "kernels/cuda/kv_operand.h"

namespace tandem::kernels::K_WORLD {

constexpr int kTileTokens = 32;
constexpr int kHalfTokens = 16;    // with a block of their own
constexpr int kScoreStride = 40;   // floats: a fragment's 16 pairs lie in distinct banks
constexpr int kWeightStride = 40;  // 16-bit values, likewise
constexpr float kLog2E = 1.4426950408889634f;

// Threads of a multiprocessor, in steps of four warps, by which the compiler shares out its
// registers: 640 leave 96 for each, 512 128, 384 168, and 256 all that a thread can have. The most
// that compile without spills on every architecture, unless that makes room for no further block:
// of head size 512 there are two in 128 registers and one in more.
constexpr int AttentionBound(int dim, int m_tiles, int k_format) {
  const bool is_16_bit = k_format == kBf16Kv || k_format == kF16Kv;
  if (k_format == kAnyFormat || (m_tiles == 2 && (dim == 512 || is_16_bit))) return 256;
  if (m_tiles == 2) return 384;
  return dim == 256 && k_format == kQ8Kv ? 640 : 512;
}

template <int kDim, int kMTiles>
struct TileShared {
  static constexpr int kThreads = kDim / 2;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kRows = 16 * kMTiles;

  float scores[kWarps][kRows][kScoreStride];  // each warp's part of them
  uint16_t weights[kRows][kWeightStride];     // operands
  float rescale[kRows];                       // what a tile multiplies a row's output by
  float max[kRows];
  float sum[kRows];
  int begin[kRows];  // visible interval; empty of packed rows that are none
  int end[kRows];
  int row[kRows];  // of q, or -1
  int q_head[kRows];
  int block[kMaxChunkTokens / kHalfTokens];  // of each half-tile of a stretch; -1: not read
  AttentionWave wave;
  AttentionItem item;
  AttentionPart part;
};

// Fragments of q, its dimensions in the order in which a lane has those of K: instruction s takes
// 16t + 4s + {0, 1} and then + {2, 3} of the warp's 64.
template <int kMTiles>
struct QueryFragments {
  uint32_t words[kMTiles][4][4];
};

// A softmax on its way. A lane's values o[m][n][i] are of packed row 16m + g + 8*(i/2), dimension
// 16t + 8*(i%2) + n of the warp's 64; its maximum and sum are of the row whose weights it finds
// (AddStretch), which several lanes know.
template <int kMTiles>
struct RunningSums {
  float o[kMTiles][8][4] = {};
  float max = MinusInfinity();
  float sum = 0.0f;
};

// Brings the item of piece `piece` (item * KV heads + KV head) and its packed rows to shared
// memory. All threads see them, and are done with those before, on return. Returns the item's
// positions.
template <typename Shared, typename Args>
K_DEVICE VisibleInterval LoadItem(const Args& args, int piece, Shared* shared) {
  const int thread = static_cast<int>(threadIdx.x);
  const int group = args.num_q_heads / args.num_kv_heads;
  __syncthreads();
  if (thread == 0) {
    const int item = shared->wave.item_begin + piece / args.num_kv_heads;
    shared->item = ld(args.work.items + item);
    const AttentionPart* part = args.work.parts + shared->item.part;
    shared->part.row_begin = ld(&part->row_begin);
    shared->part.num_rows = ld(&part->num_rows);
    shared->part.segment = ld(&part->segment);
  }
  __syncthreads();
  if (thread < Shared::kRows) {
    const int packed = shared->item.m_tile * Shared::kRows + thread;
    const int row = shared->part.row_begin + packed / group;
    const bool there = packed / group < shared->part.num_rows;
    const VisibleInterval seen = there ? ld(args.work.visible + row) : VisibleInterval{0, 0};
    shared->begin[thread] = seen.begin;
    shared->end[thread] = seen.end;
    shared->row[thread] = there ? row : -1;
    shared->q_head[thread] = piece % args.num_kv_heads * group + packed % group;
    shared->sum[thread] = 0.0f;  // stays where the item sees nothing
  }
  __syncthreads();
  return {shared->item.begin, shared->item.end};
}

template <int kDim, int kMTiles, typename Args>
K_DEVICE void LoadQuery(const Args& args, const TileShared<kDim, kMTiles>& shared,
                        VisibleInterval item, QueryFragments<kMTiles>& q) {
  const int g = lane_id() / 4, t = lane_id() % 4;
  K_UNROLL
  for (int half = 0; half < 2 * kMTiles; ++half) {
    const int row = shared.row[8 * half + g];
    Vec<uint32_t, 4> words[2] = {};
    if (row >= 0 && item.begin < item.end) {
      const uint16_t* at = args.q + row * args.q_stride +
                           shared.q_head[8 * half + g] * args.q_head_stride + 64 * warp_id() +
                           16 * t;
      words[0] = ld_nc(reinterpret_cast<const Vec<uint32_t, 4>*>(at));
      words[1] = ld_nc(reinterpret_cast<const Vec<uint32_t, 4>*>(at + 8));
    }
    K_UNROLL
    for (int s = 0; s < 4; ++s) {
      q.words[half / 2][s][half % 2] = words[s / 2][s % 2 * 2];
      q.words[half / 2][s][half % 2 + 2] = words[s / 2][s % 2 * 2 + 1];
    }
  }
}

// 16 positions of a tile: their head-block and first cell in it.
struct HalfTile {
  const std::byte* head_block;
  int first_cell;
};

K_DEVICE bool Bit(uint32_t bits, int i) { return (bits >> i & 1) != 0; }

// A row's scale; 0 for one that is not read, 1 in formats without.
K_DEVICE float ScaleOf(KvFormat format, const std::byte* scales, int cell, bool read) {
  if (!KvHasScale(format)) return 1.0f;
  return read ? f16_to_f32(ld_nc(reinterpret_cast<const f16*>(scales) + cell)) : 0.0f;
}

K_DEVICE void Mma(bool is_bf16, float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if (is_bf16) {
    mma_bf16_16816(acc, a, b);
  } else {
    mma_f16_16816(acc, a, b);
  }
}

// One value per row, reduced over the warp's lanes for all rows at once: lane l gets that of row
// l / (32 / kRows). Each row's tree is that of warp_sum.
template <int kRows, typename Join>
K_DEVICE float ReduceRows(const float (&lane_values)[kRows], Join join) {
  float values[kRows];
  K_UNROLL
  for (int r = 0; r < kRows; ++r) values[r] = lane_values[r];
  // Half the lanes go on with half of the rows, and so on.
  K_UNROLL
  for (int rows = kRows; rows > 1; rows /= 2) {
    const int distance = kWarp / 2 * rows / kRows;
    const bool upper = (lane_id() & distance) != 0;
    K_UNROLL
    for (int r = 0; r < rows / 2; ++r) {
      const float kept = upper ? values[r + rows / 2] : values[r];
      const float given = upper ? values[r] : values[r + rows / 2];
      values[r] = join(kept, __shfl_xor_sync(kFullMask, given, distance));
    }
  }
  K_UNROLL
  for (int distance = kWarp / 2 / kRows; distance > 0; distance /= 2) {
    values[0] = join(values[0], __shfl_xor_sync(kFullMask, values[0], distance));
  }
  return values[0];
}

// Adds positions [stretch, stretch + tokens) of the item, tile by tile. `tokens` is a multiple of
// kTileTokens up to kMaxChunkTokens, `stretch` a multiple of `tokens`.
template <int kDim, int kMTiles, typename Args>
K_DEVICE void AddStretch(const Args& args, KvFormat k_format, KvFormat v_format, int kv_head,
                         VisibleInterval item, int stretch, int tokens,
                         const QueryFragments<kMTiles>& q, TileShared<kDim, kMTiles>* shared,
                         RunningSums<kMTiles>& sums) {
  using Shared = TileShared<kDim, kMTiles>;
  constexpr int kWarps = Shared::kWarps;
  // Rows of which a warp finds the weights, warp + kWarps * i, and lanes that know a row's maximum.
  constexpr int kRowsPerWarp = Shared::kRows / kWarps, kLanesPerRow = kWarp / kRowsPerWarp;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = lane_id(), warp = warp_id();
  const int g = lane / 4, t = lane % 4;  // row and column of a lane in a fragment
  const int begin = item.begin, end = item.end;
  const int log2_block_tokens = args.kv.log2_block_tokens;

  __syncthreads();  // the last stretch's blocks were used
  if (thread < tokens / kHalfTokens) {
    const int position = stretch + thread * kHalfTokens;
    const int32_t* table = args.block_tables + shared->part.segment * args.table_stride;
    shared->block[thread] = position + kHalfTokens > begin && position < end
                                ? ld_nc(table + (position >> log2_block_tokens))
                                : -1;
  }
  __syncthreads();

  const int tiles_begin = (begin > stretch ? begin : stretch) / kTileTokens * kTileTokens;
  const int tiles_end = end < stretch + tokens ? end : stretch + tokens;
  for (int tile = tiles_begin; tile < tiles_end; tile += kTileTokens) {
    // Positions of the tile that are read: those of the item, in blocks that are there.
    const int first = begin > tile ? begin - tile : 0;
    const int last = end - tile < kTileTokens ? end - tile : kTileTokens;
    uint32_t reads = kFullMask << first & kFullMask >> (kTileTokens - last);
    HalfTile halves[2];
    K_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int position = tile + h * kHalfTokens;
      const int block = shared->block[(position - stretch) / kHalfTokens];
      halves[h].head_block = args.kv.base + (block < 0 ? 0 : block) * args.kv.block_stride +
                             kv_head * args.kv.head_stride;
      halves[h].first_cell = position & ((1 << log2_block_tokens) - 1);
      if (block < 0) reads &= h == 0 ? 0xffff0000u : 0x0000ffffu;
    }
    const bool upper = lane >= kHalfTokens;
    const std::byte* lane_block = upper ? halves[1].head_block : halves[0].head_block;
    const int lane_cell =
        (upper ? halves[1].first_cell : halves[0].first_cell) + lane % kHalfTokens;
    const bool lane_reads = Bit(reads, lane);
    const float k_scale =
        ScaleOf(k_format, lane_block + args.kv.k_scale_offset, lane_cell, lane_reads);
    const float v_scale =
        ScaleOf(v_format, lane_block + args.kv.v_scale_offset, lane_cell, lane_reads);

    // Scores of this warp's dimensions.
    Codes16 codes[4];
    const uint32_t k_reads = reads >> g, v_reads = reads >> 2 * t;
    K_UNROLL
    for (int n = 0; n < 4; ++n) {
      const HalfTile& half = halves[n / 2];
      const KvOperandRow row = {half.head_block, log2_block_tokens, half.first_cell + n % 2 * 8 + g,
                                Bit(k_reads, 8 * n)};
      codes[n] = Load16<kDim>(k_format, row, 64 * warp + 16 * t);
    }
    K_UNROLL
    for (int n = 0; n < 4; ++n) {
      float s[kMTiles][4] = {};
      const Octet low = Decode16<0>(k_format, codes[n]);
      const Octet high = Decode16<1>(k_format, codes[n]);
      K_UNROLL
      for (int step = 0; step < 4; ++step) {
        const Octet& octet = step < 2 ? low : high;
        const uint32_t b[2] = {octet.words[step % 2 * 2], octet.words[step % 2 * 2 + 1]};
        K_UNROLL
        for (int m = 0; m < kMTiles; ++m) Mma(IsBf16Operand(k_format), s[m], q.words[m][step], b);
      }
      K_UNROLL
      for (int m = 0; m < kMTiles; ++m) {
        auto* upper_row =
            reinterpret_cast<float2*>(&shared->scores[warp][16 * m + g][8 * n + 2 * t]);
        auto* lower_row =
            reinterpret_cast<float2*>(&shared->scores[warp][16 * m + g + 8][8 * n + 2 * t]);
        *upper_row = float2{s[m][0], s[m][1]};
        *lower_row = float2{s[m][2], s[m][3]};
      }
    }
    __syncthreads();

    // Weights; lane: position tile + lane.
    float x[kRowsPerWarp];
    K_UNROLL
    for (int i = 0; i < kRowsPerWarp; ++i) {
      const int r = warp + kWarps * i;
      float part[kWarps];
      K_UNROLL
      for (int w = 0; w < kWarps; ++w) part[w] = shared->scores[w][r][lane];
      K_UNROLL
      for (int step = 1; step < kWarps; step *= 2) {
        K_UNROLL
        for (int w = 0; w < kWarps; w += 2 * step) part[w] = add_rn(part[w], part[w + step]);
      }
      const int position = tile + lane;
      const bool seen = position >= shared->begin[r] && position < shared->end[r];
      x[i] = seen ? mul_rn(mul_rn(part[0], k_scale), kLog2E) : MinusInfinity();
    }
    const float tile_max = ReduceRows(x, [](float a, float b) { return a > b ? a : b; });
    const float new_max = tile_max > sums.max ? tile_max : sums.max;
    const float rescale = new_max == MinusInfinity() ? 1.0f : ex2(add_rn(sums.max, -new_max));
    float p[kRowsPerWarp];
    K_UNROLL
    for (int i = 0; i < kRowsPerWarp; ++i) {
      const float row_max = __shfl_sync(kFullMask, new_max, kLanesPerRow * i);
      // A scale at a position that this row does not see may be anything.
      const bool nothing = x[i] == MinusInfinity();
      p[i] = nothing ? 0.0f : ex2(add_rn(x[i], -row_max));
      const float weight = nothing ? 0.0f : mul_rn(p[i], v_scale);
      shared->weights[warp + kWarps * i][lane] =
          IsBf16Operand(v_format) ? f32_to_bf16_rn(weight).bits : f32_to_f16_rn(weight).bits;
    }
    const float tile_sum = ReduceRows(p, [](float a, float b) { return add_rn(a, b); });
    sums.max = new_max;
    sums.sum = fma_rn(sums.sum, rescale, tile_sum);
    if (lane % kLanesPerRow == 0) {
      const int r = warp + kWarps * (lane / kLanesPerRow);
      shared->rescale[r] = rescale;
      shared->max[r] = sums.max;
      shared->sum[r] = sums.sum;
    }
    __syncthreads();

    bool as_they_are = true;
    K_UNROLL
    for (int half = 0; half < 2 * kMTiles; ++half) {
      as_they_are = as_they_are && shared->rescale[8 * half + g] == 1.0f;
    }
    if (!__all_sync(kFullMask, as_they_are)) {
      K_UNROLL
      for (int m = 0; m < kMTiles; ++m) {
        K_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float rescale = shared->rescale[16 * m + g + i / 2 * 8];
          K_UNROLL
          for (int n = 0; n < 8; ++n) sums.o[m][n][i] = mul_rn(sums.o[m][n][i], rescale);
        }
      }
    }
    // Output: columns are dimensions 8g + n of the warp's 64, n one instruction each.
    K_UNROLL
    for (int h = 0; h < 2; ++h) {
      Octet v[4];  // of tokens 2t, 2t + 1, 2t + 8, 2t + 9
      K_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int token = i % 2 + i / 2 * 8;  // behind 2t
        const KvOperandRow row = {halves[h].head_block + args.kv.v_offset, log2_block_tokens,
                                  halves[h].first_cell + 2 * t + token,
                                  Bit(v_reads, kHalfTokens * h + token)};
        v[i] = Load8<kDim>(v_format, row, 64 * warp + 8 * g);
      }
      uint32_t weights[kMTiles][4];
      K_UNROLL
      for (int m = 0; m < kMTiles; ++m) {
        K_UNROLL
        for (int i = 0; i < 4; ++i) {
          const auto* pair = reinterpret_cast<const uint32_t*>(
              &shared->weights[16 * m + g + i % 2 * 8][16 * h + 2 * t + i / 2 * 8]);
          weights[m][i] = *pair;
        }
      }
      K_UNROLL
      for (int n = 0; n < 8; ++n) {
        const uint32_t select = n % 2 == 0 ? 0x5410u : 0x7632u;
        const uint32_t b[2] = {prmt(v[0].words[n / 2], v[1].words[n / 2], select),
                               prmt(v[2].words[n / 2], v[3].words[n / 2], select)};
        K_UNROLL
        for (int m = 0; m < kMTiles; ++m) {
          Mma(IsBf16Operand(v_format), sums.o[m][n], weights[m], b);
        }
      }
    }
  }
}

}  // namespace tandem::kernels::K_WORLD
