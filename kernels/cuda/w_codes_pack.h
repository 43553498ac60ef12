// Int8 and int4 weights as the CUDA kernels read them, from rows of codes, when a model is loaded.
//
// Tiles     of 16 rows x 64 k (kernels.md 4.4), tile-major: lane L = 4g + t of a warp finds what it
//           feeds to the matrix instruction in 16-byte loads: rows g and g + 8 of the tile and
//           k = 32p + 8t + {0 .. 7} of both halves p, the order in which rows of bf16 are read too.
//             int8    [tile][k/64][p][L][16 B]   byte 4w + 2h + r: row g + 8r, k = .. + 2w + h
//             int4    [tile][k/64][L][16 B]      nibble 2r + j + 4h of word 2p + s: row g + 8r,
//                                                k = .. + 4s + 2j + h; the code + 8
//             scales  [tile][k/64][g][p][r]      F16
//           So placed, a code becomes an exact bf16 by shifts and masks alone (w_codes.h), and no
//           byte belongs to two rows.
// Not here  what codes and scales are, and how many bytes they take (kernels/weight_codes.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/types.h"

namespace tandem::kernels {

// k of a tile; kernels/weight_codes.h has the sizes of a packed matrix.
constexpr int kCodeTileK = 64;

// Writes row n of a matrix. Rows in any order and from any threads; places of rows past the last
// one, up to a whole tile, may stay as they are.
//   codes         [32 * WeightGroups(in)], scales [WeightGroups(in)] of EncodeWeightRow
//   packed        [PackedCodeBytes(format, out, in)], 16-byte aligned (better 64)
//   packed_scales [PackedCodeScales(out, in)], likewise
void PackCodeRow(WeightFormat format, int n, int in, const int8_t* codes, const F16* scales,
                 std::byte* packed, F16* packed_scales);

}  // namespace tandem::kernels
