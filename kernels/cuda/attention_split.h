// Attention over one chunk or super-chunk of positions: a softmax's maximum, sum and unnormalised
// output per packed row (attention_tile.h).
//
// Launch    any grid; a block of D/64 warps strides over items * KV heads.
// Order     of sums: each chunk starts afresh; those of a super-chunk are folded ascending, as by
//           merge (attention_fold.h). m_tiles, super_chunks, grid and neighbours do not show in the
//           bits.
// Traffic   reads per item and KV head the codes of its positions, their scales once per warp (L1
//           after the first), 2*D + 8 B per packed row, 28 B of the plan and 4 B per 16 positions
//           of the block table; writes 16*m_tiles*(4*D + 8) B, which stay in L2 when batches are
//           small.
// Roofline  memory bound up to 32 packed rows in bf16 and q8; turbo formats are bound by
//           instructions (kernels.md 5.1.4). Not measured.
// Truth     tests/emu/attention_test.cc, tests/emu/attention_cells_test.cc.
#pragma once

#include "kernels/cuda/attention_instances.h"
#include "kernels/cuda/attention_tile.h"

namespace tandem::kernels::K_WORLD {

// Of a thread in the fold of a super-chunk: its part of the output and the maximum and sum of its
// rows.
template <int kMTiles>
constexpr int kFoldedFloats = 36 * kMTiles;

template <int kDim, int kMTiles, int kKFormat, int kVFormat>
__global__ void __launch_bounds__((AttentionBound(kDim, kMTiles, kKFormat)))
    AttnSplitKernel(const AttentionSplitArgs args) {
  using Shared = TileShared<kDim, kMTiles>;
  constexpr int kThreads = Shared::kThreads, kRows = Shared::kRows;
  K_DYN_SMEM(Shared, shared);
  const KvFormat k_format = FormatOf<kKFormat>(args.kv.k_format);
  const KvFormat v_format = FormatOf<kVFormat>(args.kv.v_format);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = lane_id(), warp = warp_id();
  const int g = lane / 4, t = lane % 4;

  if (thread == 0) shared->wave = ld(args.work.wave);
  __syncthreads();
  const int pieces = (shared->wave.item_end - shared->wave.item_begin) * args.num_kv_heads;
  for (int piece = static_cast<int>(blockIdx.x); piece < pieces;
       piece += static_cast<int>(gridDim.x)) {
    const int kv_head = piece % args.num_kv_heads;
    const VisibleInterval item = LoadItem(args, piece, shared);
    QueryFragments<kMTiles> q;
    LoadQuery(args, *shared, item, q);

    const int chunk_tokens = args.work.chunk_tokens;
    const int first_chunk = item.begin / chunk_tokens * chunk_tokens;
    for (int chunk = first_chunk; chunk < item.end; chunk += chunk_tokens) {
      RunningSums<kMTiles> sums;
      AddStretch(args, k_format, v_format, kv_head, item, chunk, chunk_tokens, q, shared, sums);

      // The chunk is done. Its fold lies in memory of this thread alone.
      float* folded = reinterpret_cast<float*>(shared + 1) + thread;
      const bool is_last = chunk + chunk_tokens >= item.end;
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
              sums.o[m][n][i] =
                  Fold(folded[((m * 8 + n) * 4 + i) * kThreads], sums.o[m][n][i], factors);
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
              folded[((m * 8 + n) * 4 + i) * kThreads] = sums.o[m][n][i];
            }
          }
        } else {
          const int64_t slot_row = int64_t{piece} * kRows + r;
          float* out = args.work.partials + slot_row * kDim + 64 * warp + 16 * t;
          K_UNROLL
          for (int quad = 0; quad < 4; ++quad) {
            const int i = i0 + quad / 2, n = quad % 2 * 4;
            st(reinterpret_cast<float4*>(out) + quad,
               float4{sums.o[m][n][i], sums.o[m][n + 1][i], sums.o[m][n + 2][i],
                      sums.o[m][n + 3][i]});
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

template <int kDim, int kMTiles, int kKFormat, int kVFormat>
SplitKernel MakeSplitKernel(bool super_chunks) {
  using Shared = TileShared<kDim, kMTiles>;
  constexpr size_t kFoldedBytes = sizeof(float) * Shared::kThreads * kFoldedFloats<kMTiles>;
  return {AttnSplitKernel<kDim, kMTiles, kKFormat, kVFormat>, Shared::kThreads,
          sizeof(Shared) + (super_chunks ? kFoldedBytes : 0)};
}

template <int kKFormat, int kVFormat>
SplitKernel SplitKernelOf(int head_dim, AttentionGrain grain) {
  if (head_dim == 256) {
    return grain.m_tiles == 1 ? MakeSplitKernel<256, 1, kKFormat, kVFormat>(grain.super_chunks)
                              : MakeSplitKernel<256, 2, kKFormat, kVFormat>(grain.super_chunks);
  }
  return grain.m_tiles == 1 ? MakeSplitKernel<512, 1, kKFormat, kVFormat>(grain.super_chunks)
                            : MakeSplitKernel<512, 2, kKFormat, kVFormat>(grain.super_chunks);
}

}  // namespace tandem::kernels::K_WORLD
