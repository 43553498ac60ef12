// Attention of prompt rows: one softmax per packed row over all that it sees, finished in the block
// (attention_tile.h).
//
// Launch    any grid; a block of D/64 warps strides over items * KV heads. 32 packed rows per item.
// Order     of sums: tiles ascending from the first that holds a position of the item. What a chunk
//           of the prompt ends with does not show in the bits of its rows.
// Traffic   reads per item and KV head the codes of its positions, their scales once per warp (L1
//           after the first), 2*D + 8 B per packed row, 28 B of the plan and 4 B per 16 positions
//           of the block table; writes 2*D B per packed row. Items of one segment read the same K
//           and V, mostly from L2.
// Roofline  32 FLOP per byte of 16-bit K and V from L2, more in smaller formats: bound by
//           instructions (kernels.md 5.1.10 expects 80 to 150 TFLOP/s of an H200), and by latency
//           where a few items stand behind a long prefix. Not measured.
// Truth     tests/emu/attention_direct_test.cc.
#pragma once

#include "kernels/cuda/attention_finish.h"
#include "kernels/cuda/attention_instances.h"
#include "kernels/cuda/attention_tile.h"

namespace tandem::kernels::K_WORLD {

// Rows that go through shared memory at a time on their way to the output, over the scores.
constexpr int kFinishRows = 8;
constexpr int kFinishPad = 4;  // floats

template <int kDim, int kKFormat, int kVFormat>
__global__ void __launch_bounds__((AttentionBound(kDim, kDirectMTiles, kKFormat)))
    AttnDirectKernel(const AttentionDirectArgs args) {
  using Shared = TileShared<kDim, kDirectMTiles>;
  constexpr int kValues = kDim / kWarp, kStride = kDim + kFinishPad;
  static_assert(sizeof(Shared::scores) >= sizeof(float) * kFinishRows * kStride);
  K_DYN_SMEM(Shared, shared);
  const KvFormat k_format = FormatOf<kKFormat>(args.kv.k_format);
  const KvFormat v_format = FormatOf<kVFormat>(args.kv.v_format);
  const int lane = lane_id(), warp = warp_id();
  const int g = lane / 4, t = lane % 4;

  if (threadIdx.x == 0) shared->wave = ld(args.work.wave);
  __syncthreads();
  const int pieces = (shared->wave.item_end - shared->wave.item_begin) * args.num_kv_heads;
  for (int piece = static_cast<int>(blockIdx.x); piece < pieces;
       piece += static_cast<int>(gridDim.x)) {
    const int kv_head = piece % args.num_kv_heads;
    const VisibleInterval item = LoadItem(args, piece, shared);
    RunningSums<kDirectMTiles> sums;
    {
      QueryFragments<kDirectMTiles> q;
      LoadQuery(args, *shared, item, q);
      for (int stretch = item.begin / kMaxChunkTokens * kMaxChunkTokens; stretch < item.end;
           stretch += kMaxChunkTokens) {
        AddStretch(args, k_format, v_format, kv_head, item, stretch, kMaxChunkTokens, q, shared,
                   sums);
      }
    }

    float* const rows = &shared->scores[0][0][0];  // [kFinishRows][kStride]
    K_UNROLL
    for (int half = 0; half < 2 * kDirectMTiles; ++half) {
      const int m = half / 2, i0 = half % 2 * 2;
      float* to = rows + g * kStride + 64 * warp + 16 * t;
      K_UNROLL
      for (int quad = 0; quad < 4; ++quad) {
        const int i = i0 + quad / 2, n = quad % 2 * 4;
        reinterpret_cast<float4*>(to)[quad] =
            float4{sums.o[m][n][i], sums.o[m][n + 1][i], sums.o[m][n + 2][i], sums.o[m][n + 3][i]};
      }
      __syncthreads();
      for (int i = warp; i < kFinishRows; i += Shared::kWarps) {
        const int r = 8 * half + i;
        const int row = shared->row[r];
        float values[kValues];
        K_UNROLL
        for (int j = 0; j < kValues; j += 4) {
          const float4 quad =
              *reinterpret_cast<const float4*>(rows + i * kStride + lane * kValues + j);
          values[j] = quad.x;
          values[j + 1] = quad.y;
          values[j + 2] = quad.z;
          values[j + 3] = quad.w;
        }
        if (row >= 0) {  // all lanes or none
          FinishRow<kDim>(values, InverseSum(shared->sum[r]), v_format,
                          args.out + (int64_t{row} * args.num_q_heads + shared->q_head[r]) * kDim);
        }
      }
      __syncthreads();
    }
  }
}

template <int kDim, int kKFormat, int kVFormat>
DirectKernel MakeDirectKernel() {
  using Shared = TileShared<kDim, kDirectMTiles>;
  static_assert(sizeof(Shared) <= 48 * 1024);  // more would have to be asked for
  return {AttnDirectKernel<kDim, kKFormat, kVFormat>, Shared::kThreads, sizeof(Shared)};
}

template <int kKFormat, int kVFormat>
DirectKernel DirectKernelOf(int head_dim) {
  return head_dim == 256 ? MakeDirectKernel<256, kKFormat, kVFormat>()
                         : MakeDirectKernel<512, kKFormat, kVFormat>();
}

}  // namespace tandem::kernels::K_WORLD
