// One block's part of y = W x for few rows and int8 or int4 weights: as w_linear_tile.h, whose
// positions, tiles and partial sums these are.
//
//   dot_q = sum over the 32 k of group q, a chain of two matrix instructions that starts from 0
//   s_j   = fma over the groups q of segment j, ascending, of scale[n,q] * dot_q;
//   y     = ((s_0 + s_1) + s_2) ... + s_7                                    (kernels.md 5.5.1)
//   segment j of 8 is that of bf16 weights
//
// Order     a function of `in` alone.
// Not here  what becomes of the sums (w_linear_codes.cu, head.cu).
#pragma once

#include "kernels/cuda/kport.h"
#include "kernels/cuda/w_codes.h"
#include "kernels/cuda/w_linear_tile.h"

namespace tandem::kernels::K_WORLD {

// kBits of a code: 8 or 4.
template <int kBits>
struct CodesOperands {
  const bf16* x = nullptr;           // [rows, x_stride], `in` values used; 16-byte aligned
  int64_t x_stride = 0;              // a multiple of 8
  const std::byte* codes = nullptr;  // of PackCodeRow, 16-byte aligned
  const f16* scales = nullptr;       // likewise
  int rows = 0;
  int in = 0;  // a multiple of 8, below 2^25
  int out = 0;
};

// A lane's codes and scales of 64 k: per tile the groups p of 32 k; scales.x of group 0, of rows g
// (low) and g + 8, scales.y of group 1.
template <int kBits, int kTiles>
struct CodesOfBlock {
  static constexpr int kVectors = kBits / 4;
  uint4 codes[kTiles][kVectors];
  uint2 scales[kTiles];
};

// A lane's place in the packed weights of a block's outputs.
struct CodesPlace {
  const std::byte* codes;  // of the first tile
  const std::byte* scales;
  int blocks;      // of 64 k
  int tiles_left;  // tiles that exist
};

template <int kBits>
K_DEVICE CodesPlace PlaceOfCodes(const CodesOperands<kBits>& a, int first_output) {
  const int blocks = (a.in + kCodeTileK - 1) / kCodeTileK;
  const int64_t first_block = int64_t{first_output / 16} * blocks;
  return {a.codes + (first_block * (128 * kBits) + 16 * lane_id()),
          reinterpret_cast<const std::byte*>(a.scales) + (first_block * 64 + lane_id() / 4 * 8),
          blocks, (a.out + 15) / 16 - first_output / 16};
}

// Zeros past the last tile and from `end` on.
template <int kBits, int kTiles>
K_DEVICE void LoadCodes(CodesOfBlock<kBits, kTiles>& to, const CodesPlace& place, int block,
                        int end) {
  K_UNROLL
  for (int r = 0; r < kTiles; ++r) {
    const bool valid = r < place.tiles_left && block < end;
    const int64_t from = int64_t{r} * place.blocks + block;
    K_UNROLL
    for (int v = 0; v < CodesOfBlock<kBits, kTiles>::kVectors; ++v) {
      to.codes[r][v] =
          valid ? ld_nc_16(place.codes + (from * (128 * kBits) + 512 * v)) : uint4{0u, 0u, 0u, 0u};
    }
    to.scales[r] =
        valid ? ld_nc(reinterpret_cast<const uint2*>(place.scales + from * 64)) : uint2{0u, 0u};
  }
}

// The weights' operands of both instructions of group p.
template <int kBits, int kTiles>
K_DEVICE void DecodeGroup(uint32_t (&w0)[4], uint32_t (&w1)[4],
                          const CodesOfBlock<kBits, kTiles>& from, int tile, int p) {
  if constexpr (kBits == 4) {
    const uint4& v = from.codes[tile][0];
    DecodeInt4(w0, p == 0 ? v.x : v.z);
    DecodeInt4(w1, p == 0 ? v.y : v.w);
  } else {
    const uint4& v = from.codes[tile][p];
    DecodeInt8(w0[0], w0[1], v.x);
    DecodeInt8(w0[2], w0[3], v.y);
    DecodeInt8(w1[0], w1[1], v.z);
    DecodeInt8(w1[2], w1[3], v.w);
  }
}

// Blocks of 64 k whose codes a lane has under way. More columns take longer to multiply.
template <int kBits, int kTiles, int kColumns>
constexpr int kCodesAhead = kBits == 4 && kTiles == 1 && kColumns == 1 ? 4 : 2;

// Fills partials, [LinearTile::kPartials] in shared memory; values past the last row are 0, past
// the last output anything. A barrier is the caller's. `rows` as of the other SumSegmentsOfRows;
// a.x is not read.
template <int kTiles, int kColumns, int kBits, typename Rows>
K_DEVICE void SumSegmentsOfRows(const CodesOperands<kBits>& a, const Rows& rows, int first_output,
                                float* partials) {
  constexpr int kAhead = kCodesAhead<kBits, kTiles, kColumns>;
  const CodesPlace place = PlaceOfCodes(a, first_output);
  const int begin = place.blocks * warp_id() / kLinearSegments;
  const int end = place.blocks * (warp_id() + 1) / kLinearSegments;

  float sum[kTiles][kColumns][4] = {};
  CodesOfBlock<kBits, kTiles> ahead[kAhead];
  K_UNROLL
  for (int d = 0; d < kAhead; ++d) LoadCodes(ahead[d], place, begin + d, end);
  for (int first = begin; first < end; first += kAhead) {
    K_UNROLL
    for (int d = 0; d < kAhead; ++d) {
      const int block = first + d;
      if (block >= end) break;  // the same for the whole warp
      K_UNROLL
      for (int p = 0; p < 2; ++p) {
        const int k = block * kCodeTileK + 32 * p + lane_id() % 4 * 8;
        uint32_t w[kTiles][2][4];
        float2 scale[kTiles];
        K_UNROLL
        for (int r = 0; r < kTiles; ++r) {
          DecodeGroup(w[r][0], w[r][1], ahead[d], r, p);
          scale[r] = unpack_f16x2(p == 0 ? ahead[d].scales[r].x : ahead[d].scales[r].y);
        }
        K_UNROLL
        for (int c = 0; c < kColumns; ++c) {
          const uint4 x = LoadOrZero(rows.At(c) + k, rows.Has(c) && k < a.in);
          const uint32_t x0[2] = {x.x, x.y}, x1[2] = {x.z, x.w};
          K_UNROLL
          for (int r = 0; r < kTiles; ++r) {
            float dot[4] = {};
            mma_bf16_16816(dot, w[r][0], x0);
            mma_bf16_16816(dot, w[r][1], x1);
            K_UNROLL
            for (int i = 0; i < 4; ++i) {
              sum[r][c][i] = fma_rn(i < 2 ? scale[r].x : scale[r].y, dot[i], sum[r][c][i]);
            }
          }
        }
      }
      LoadCodes(ahead[d], place, block + kAhead, end);
    }
  }
  StorePartials<kTiles, kColumns>(sum, partials);
}

template <int kTiles, int kColumns, int kBits>
K_DEVICE void SumSegments(const CodesOperands<kBits>& a, LinearPosition at, float* partials) {
  const int row = at.first_row + lane_id() / 4;
  const ConsecutiveRows rows = {a.x + row * a.x_stride, a.x_stride, a.rows - row};
  SumSegmentsOfRows<kTiles, kColumns>(a, rows, at.first_output, partials);
}

}  // namespace tandem::kernels::K_WORLD
