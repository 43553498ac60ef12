// Attention over one chunk or super-chunk of positions: a softmax's maximum, sum and unnormalised
// output per packed row.
//
//   x_j = (q . K_j) * sigma_K[j] * log2(e);  p_j = 2^(x_j - m);  l = sum p_j
//   o = sum (p_j * sigma_V[j]) V_j                       sigma: the rows' scales, or 1
//
// Rows      of a block: 16 * m_tiles pairs (row of the part, head of the group), packed, so that
//           one read of K and V serves a whole group and all verified rows.
// Launch    any grid; a block of D/64 warps strides over items * KV heads. Warp w owns dimensions
//           [64 w, 64 w + 64) of q, K and the output: K and V go from memory to registers, decoded
//           there (kv_operand.h), once.
// Tile      of 32 positions, aligned to 32: QK^T of each warp's dimensions to shared memory;
//           barrier; scores, intervals, maxima and weights, a row per warp and turn, a position per
//           lane; barrier; PV. Two halves of 16 positions have their own block.
// Order     of sums: 16 dimensions by one instruction, four of them, then warps pairwise; positions
//           by butterflies, tiles and chunks ascending. All of it fixed by head size and chunk:
//           m_tiles, super_chunks, grid and neighbours do not show in the bits.
// Operands  f16, bf16 where K or V is stored in bf16. Weights are rounded once, behind sigma_V.
// Traffic   reads per item and KV head the codes of its positions, their scales once per warp (L1
//           after the first), 2*D + 8 B per packed row, 28 B of the plan and 4 B per 16 positions
//           of the block table; writes 16*m_tiles*(4*D + 8) B, which stay in L2 when batches are
//           small.
// Roofline  memory bound up to 32 packed rows in bf16 and q8; turbo formats are bound by
//           instructions (kernels.md 5.1.4). Not measured.
// Truth     tests/emu/attention_test.cc, tests/emu/attention_cells_test.cc.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_fold.h"
#include "kernels/cuda/kport.h"
#include "kernels/cuda/kv_operand.h"

namespace tandem::kernels::K_WORLD {

constexpr int kTileTokens = 32;
constexpr int kHalfTokens = 16;    // with a block of their own
constexpr int kScoreStride = 40;   // floats: a fragment's 16 pairs lie in distinct banks
constexpr int kWeightStride = 40;  // 16-bit values, likewise
constexpr int kAnyFormat = -1;     // the format is in the view
constexpr float kLog2E = 1.4426950408889634f;

// Threads of a multiprocessor, in steps of four warps, by which the compiler shares out its
// registers: 640 leave 96 for each, 512 128, 384 168, and 256 all that a thread can have. As few
// as compile without spills on every architecture.
constexpr int SplitBound(int dim, int m_tiles, int k_format) {
  const bool is_q8 = k_format == static_cast<int>(KvFormat::kQ8);
  if (k_format == kAnyFormat || (dim == 512 && m_tiles == 2 && is_q8)) return 256;
  if (m_tiles == 2) return 384;
  return is_q8 ? 640 : 512;
}

template <int kDim, int kMTiles>
struct SplitShared {
  static constexpr int kThreads = kDim / 2;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kRows = 16 * kMTiles;
  // Of a thread: its part of the output and the maximum and sum of its rows.
  static constexpr int kFoldedFloats = 36 * kMTiles;
  static constexpr size_t kFoldedBytes = sizeof(float) * kThreads * kFoldedFloats;

  float scores[kWarps][kRows][kScoreStride];  // each warp's part of them
  uint16_t weights[kRows][kWeightStride];     // operands
  float rescale[kRows];                       // what a tile multiplies a row's output by
  float max[kRows];
  float sum[kRows];
  int begin[kRows];  // visible interval; empty of packed rows that are none
  int end[kRows];
  int row[kRows];  // of q, or -1
  int q_head[kRows];
  int block[kMaxChunkTokens / kHalfTokens];  // of each half-tile of the chunk; -1: not read
  AttentionWave wave;
  AttentionItem item;
  AttentionPart part;
};

// A half-tile: its head-block and which of its 16 positions are read.
struct HalfTile {
  const std::byte* head_block;
  int first_cell;
  int first;
  unsigned count;
};

K_DEVICE bool Reads(const HalfTile& half, int token) {
  return static_cast<unsigned>(token - half.first) < half.count;
}

// A row's scale; 0 for one that is not read, 1 in formats without.
K_DEVICE float ScaleOf(KvFormat format, const HalfTile& half, size_t offset, int token) {
  if (!KvHasScale(format)) return 1.0f;
  if (!Reads(half, token)) return 0.0f;
  const std::byte* scales = half.head_block + offset;
  return f16_to_f32(ld_nc(reinterpret_cast<const f16*>(scales) + half.first_cell + token));
}

K_DEVICE void Mma(bool is_bf16, float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if (is_bf16) {
    mma_bf16_16816(acc, a, b);
  } else {
    mma_f16_16816(acc, a, b);
  }
}

template <int kDim, int kMTiles, int kKFormat, int kVFormat>
__global__ void __launch_bounds__((SplitBound(kDim, kMTiles, kKFormat)))
    AttnSplitKernel(const AttentionSplitArgs args) {
  using Shared = SplitShared<kDim, kMTiles>;
  constexpr int kThreads = Shared::kThreads, kWarps = Shared::kWarps, kRows = Shared::kRows;
  constexpr int kRowsPerWarp = kRows / kWarps;
  K_DYN_SMEM(Shared, shared);
  const KvFormat k_format =
      kKFormat == kAnyFormat ? args.kv.k_format : static_cast<KvFormat>(kKFormat);
  const KvFormat v_format =
      kVFormat == kAnyFormat ? args.kv.v_format : static_cast<KvFormat>(kVFormat);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = lane_id(), warp = warp_id();
  const int g = lane / 4, t = lane % 4;  // row and column of a lane in a fragment
  const int group = args.num_q_heads / args.num_kv_heads;
  const int log2_block_tokens = args.kv.log2_block_tokens;

  if (thread == 0) shared->wave = ld(args.work.wave);
  __syncthreads();
  const int first_item = shared->wave.item_begin;
  const int pieces = (shared->wave.item_end - first_item) * args.num_kv_heads;
  for (int piece = static_cast<int>(blockIdx.x); piece < pieces;
       piece += static_cast<int>(gridDim.x)) {
    const int kv_head = piece % args.num_kv_heads;
    __syncthreads();  // every thread is done with the last piece
    if (thread == 0) {
      shared->item = ld(args.work.items + first_item + piece / args.num_kv_heads);
      const AttentionPart* part = args.work.parts + shared->item.part;
      shared->part.row_begin = ld(&part->row_begin);
      shared->part.num_rows = ld(&part->num_rows);
      shared->part.segment = ld(&part->segment);
    }
    __syncthreads();
    const int begin = shared->item.begin, end = shared->item.end;
    if (thread < kRows) {
      const int packed = shared->item.m_tile * kRows + thread;
      const int row = shared->part.row_begin + packed / group;
      const bool there = packed / group < shared->part.num_rows;
      const VisibleInterval seen = there ? ld(args.work.visible + row) : VisibleInterval{0, 0};
      shared->begin[thread] = seen.begin;
      shared->end[thread] = seen.end;
      shared->row[thread] = there ? row : -1;
      shared->q_head[thread] = kv_head * group + packed % group;
    }
    __syncthreads();

    // Fragments of q, its dimensions in the order in which a lane has those of K: instruction s
    // takes 16t + 4s + {0, 1} and then + {2, 3} of the warp's 64.
    uint32_t q[kMTiles][4][4];
    K_UNROLL
    for (int half = 0; half < 2 * kMTiles; ++half) {
      const int row = shared->row[8 * half + g];
      Vec<uint32_t, 4> words[2] = {};
      if (row >= 0 && begin < end) {
        const uint16_t* at = args.q + row * args.q_stride +
                             shared->q_head[8 * half + g] * args.q_head_stride + 64 * warp + 16 * t;
        words[0] = ld_nc(reinterpret_cast<const Vec<uint32_t, 4>*>(at));
        words[1] = ld_nc(reinterpret_cast<const Vec<uint32_t, 4>*>(at + 8));
      }
      K_UNROLL
      for (int s = 0; s < 4; ++s) {
        q[half / 2][s][half % 2] = words[s / 2][s % 2 * 2];
        q[half / 2][s][half % 2 + 2] = words[s / 2][s % 2 * 2 + 1];
      }
    }

    const int chunk_tokens = args.work.chunk_tokens;
    const int first_chunk = begin / chunk_tokens * chunk_tokens;
    for (int chunk = first_chunk; chunk < end; chunk += chunk_tokens) {
      __syncthreads();  // the last chunk's blocks were used
      if (thread < chunk_tokens / kHalfTokens) {
        const int position = chunk + thread * kHalfTokens;
        const int32_t* table = args.block_tables + shared->part.segment * args.table_stride;
        shared->block[thread] = position + kHalfTokens > begin && position < end
                                    ? ld_nc(table + (position >> log2_block_tokens))
                                    : -1;
      }
      __syncthreads();

      float o[kMTiles][8][4] = {};
      float row_max = MinusInfinity(), row_sum = 0.0f;  // lane i: of row warp + kWarps * i
      const int tiles_begin = (begin > chunk ? begin : chunk) / kTileTokens * kTileTokens;
      const int tiles_end = end < chunk + chunk_tokens ? end : chunk + chunk_tokens;
      for (int tile = tiles_begin; tile < tiles_end; tile += kTileTokens) {
        HalfTile halves[2];
        K_UNROLL
        for (int h = 0; h < 2; ++h) {
          const int position = tile + h * kHalfTokens;
          const int block = shared->block[(position - chunk) / kHalfTokens];
          const int first = begin > position ? begin - position : 0;
          const int last = end - position < kHalfTokens ? end - position : kHalfTokens;
          halves[h].head_block = args.kv.base + (block < 0 ? 0 : block) * args.kv.block_stride +
                                 kv_head * args.kv.head_stride;
          halves[h].first_cell = position & ((1 << log2_block_tokens) - 1);
          halves[h].first = first;
          halves[h].count = block < 0 || last < first ? 0u : static_cast<unsigned>(last - first);
        }
        const bool upper = lane >= kHalfTokens;
        const HalfTile lane_half = {upper ? halves[1].head_block : halves[0].head_block,
                                    upper ? halves[1].first_cell : halves[0].first_cell,
                                    upper ? halves[1].first : halves[0].first,
                                    upper ? halves[1].count : halves[0].count};
        const int lane_token = lane % kHalfTokens;
        const float k_scale = ScaleOf(k_format, lane_half, args.kv.k_scale_offset, lane_token);
        const float v_scale = ScaleOf(v_format, lane_half, args.kv.v_scale_offset, lane_token);

        // Scores of this warp's dimensions.
        Codes16 codes[4];
        K_UNROLL
        for (int n = 0; n < 4; ++n) {
          const HalfTile& half = halves[n / 2];
          const int token = n % 2 * 8 + g;
          const KvOperandRow row = {half.head_block, log2_block_tokens, half.first_cell + token,
                                    Reads(half, token)};
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
            for (int m = 0; m < kMTiles; ++m) Mma(IsBf16Operand(k_format), s[m], q[m][step], b);
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

        // Weights, a row per turn; lane: position tile + lane.
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
          const float x = seen ? mul_rn(mul_rn(part[0], k_scale), kLog2E) : MinusInfinity();
          const float old_max = __shfl_sync(kFullMask, row_max, i);
          const float tile_max = warp_max(x);
          const float new_max = tile_max > old_max ? tile_max : old_max;
          const float p = x == MinusInfinity() ? 0.0f : ex2(add_rn(x, -new_max));
          const float tile_sum = warp_sum(p);
          // A scale that this row does not see may be anything.
          const float weight = seen ? mul_rn(p, v_scale) : 0.0f;
          shared->weights[r][lane] =
              IsBf16Operand(v_format) ? f32_to_bf16_rn(weight).bits : f32_to_f16_rn(weight).bits;
          if (lane == i) {
            const float rescale =
                new_max == MinusInfinity() ? 1.0f : ex2(add_rn(old_max, -new_max));
            row_max = new_max;
            row_sum = fma_rn(row_sum, rescale, tile_sum);
            shared->rescale[r] = rescale;
            shared->max[r] = row_max;
            shared->sum[r] = row_sum;
          }
        }
        __syncthreads();

        K_UNROLL
        for (int m = 0; m < kMTiles; ++m) {
          K_UNROLL
          for (int i = 0; i < 4; ++i) {
            const float rescale = shared->rescale[16 * m + g + i / 2 * 8];
            K_UNROLL
            for (int n = 0; n < 8; ++n) o[m][n][i] = mul_rn(o[m][n][i], rescale);
          }
        }
        // Output: columns are dimensions 8g + n of the warp's 64, n one instruction each.
        K_UNROLL
        for (int h = 0; h < 2; ++h) {
          Octet v[4];  // of tokens 2t, 2t + 1, 2t + 8, 2t + 9
          K_UNROLL
          for (int i = 0; i < 4; ++i) {
            const int token = 2 * t + i % 2 + i / 2 * 8;
            const KvOperandRow row = {halves[h].head_block + args.kv.v_offset, log2_block_tokens,
                                      halves[h].first_cell + token, Reads(halves[h], token)};
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
              Mma(IsBf16Operand(v_format), o[m][n], weights[m], b);
            }
          }
        }
      }

      // The chunk is done. Its fold lies in memory of this thread alone.
      float* folded = reinterpret_cast<float*>(shared + 1) + thread;
      const bool is_last = chunk + chunk_tokens >= end;
      K_UNROLL
      for (int half = 0; half < 2 * kMTiles; ++half) {
        const int m = half / 2, i0 = half % 2 * 2, r = 8 * half + g;
        float* max_at = folded + (32 * kMTiles + 2 * half) * kThreads;
        float* sum_at = max_at + kThreads;
        float max = shared->max[r], sum = shared->sum[r];
        if (chunk != first_chunk) {
          const FoldFactors factors = FoldAt(*max_at, max);
          max = factors.max;
          sum = Fold(*sum_at, sum, factors);
          K_UNROLL
          for (int n = 0; n < 8; ++n) {
            K_UNROLL
            for (int i = i0; i < i0 + 2; ++i) {
              o[m][n][i] = Fold(folded[((m * 8 + n) * 4 + i) * kThreads], o[m][n][i], factors);
            }
          }
        }
        if (!is_last) {
          *max_at = max;
          *sum_at = sum;
          K_UNROLL
          for (int n = 0; n < 8; ++n) {
            K_UNROLL
            for (int i = i0; i < i0 + 2; ++i) {
              folded[((m * 8 + n) * 4 + i) * kThreads] = o[m][n][i];
            }
          }
        } else {
          const int64_t slot_row = int64_t{piece} * kRows + r;
          float* out = args.work.partials + slot_row * kDim + 64 * warp + 16 * t;
          K_UNROLL
          for (int quad = 0; quad < 4; ++quad) {
            const int i = i0 + quad / 2, n = quad % 2 * 4;
            st(reinterpret_cast<float4*>(out) + quad,
               float4{o[m][n][i], o[m][n + 1][i], o[m][n + 2][i], o[m][n + 3][i]});
          }
          if (warp == 0 && t == 0) {
            float* state = args.work.partials + args.work.max_slots * kRows * kDim + slot_row * 2;
            st(reinterpret_cast<float2*>(state), float2{max, sum});
          }
        }
      }
    }
  }
}

// The kernel for a head size and grain, one pair of formats.
struct SplitKernel {
  void (*kernel)(AttentionSplitArgs) = nullptr;
  int threads = 0;
  size_t shared_bytes = 0;
};

template <int kDim, int kMTiles, int kKFormat, int kVFormat>
SplitKernel MakeSplitKernel(bool super_chunks) {
  using Shared = SplitShared<kDim, kMTiles>;
  return {AttnSplitKernel<kDim, kMTiles, kKFormat, kVFormat>, Shared::kThreads,
          sizeof(Shared) + (super_chunks ? Shared::kFoldedBytes : 0)};
}

// head_dim 256 or 512, m_tiles 1 or 2.
template <int kKFormat, int kVFormat>
SplitKernel ChooseSplitKernel(int head_dim, AttentionGrain grain) {
  if (head_dim == 256) {
    return grain.m_tiles == 1 ? MakeSplitKernel<256, 1, kKFormat, kVFormat>(grain.super_chunks)
                              : MakeSplitKernel<256, 2, kKFormat, kVFormat>(grain.super_chunks);
  }
  return grain.m_tiles == 1 ? MakeSplitKernel<512, 1, kKFormat, kVFormat>(grain.super_chunks)
                            : MakeSplitKernel<512, 2, kKFormat, kVFormat>(grain.super_chunks);
}

// One file each, so that they compile side by side. The last serves every other pair.
SplitKernel SplitKernelBf16(int head_dim, AttentionGrain grain);
SplitKernel SplitKernelQ8(int head_dim, AttentionGrain grain);
SplitKernel SplitKernelTurbo4(int head_dim, AttentionGrain grain);
SplitKernel SplitKernelAny(int head_dim, AttentionGrain grain);

}  // namespace tandem::kernels::K_WORLD
