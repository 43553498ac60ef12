// Where the CPU keeps each code of a weight matrix of int8 or int4 (weight_codes.h).
//
//   int8    codes [ceil(out/16)][groups][8][16][4]: word j of a group holds inputs 4j .. 4j + 3 of
//           16 outputs
//   int4    codes [ceil(out/16)][groups][4][16][4]: byte b of word j holds the code + 8 of input
//           8j + b in its low half and that of input 8j + 4 + b in its high half
//   scales  [ceil(out/16)][groups][16] F16
//
// groups = 2 * ceil(in/64), so that blocks of 64 inputs make PackedCodeBytes. A line of 64 bytes is
// what one multiplication of bytes takes. What lies behind `out` and `in` has scales of 0.
// Source    kernels.md 9.2.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/types.h"
#include "kernels/weight_codes.h"

namespace tandem::kernels {

constexpr int PackedCodeGroups(int in) {
  return 2 * static_cast<int>((static_cast<size_t>(in) + 63) / 64);
}

// Bytes of one group of a tile.
constexpr size_t CodeGroupBytes(WeightFormat format) {
  return format == WeightFormat::kInt8 ? 512 : 256;
}

// Of group `group` of row n: its tile's codes of that group, and the row's scale.
inline size_t CodeGroupIndex(int n, int in, int group) {
  return static_cast<size_t>(n / kTileOutputs) * PackedCodeGroups(in) + group;
}

// Writes row n of a matrix of `in` inputs.
//   codes   [32 * WeightGroups(in)], scales [WeightGroups(in)] of EncodeWeightRow
//   packed  [PackedCodeBytes(format, out, in)]; packed_scales [PackedCodeScales(out, in)]
void PutCodeRow(WeightFormat format, int n, int in, const int8_t* codes, const F16* scales,
                std::byte* packed, F16* packed_scales);

// Code of input k of row n, and its scale.
inline int8_t CodeAt(const WeightView& w, int n, int k) {
  const std::byte* group =
      w.codes + CodeGroupIndex(n, w.in, k / kWeightGroup) * CodeGroupBytes(w.format);
  const int i = k % kWeightGroup;
  const int lane = n % kTileOutputs * 4;
  if (w.format == WeightFormat::kInt8) {
    return static_cast<int8_t>(group[i / 4 * 64 + lane + i % 4]);
  }
  const int both = static_cast<int>(group[i / 8 * 64 + lane + i % 4]);
  return static_cast<int8_t>((i % 8 < 4 ? both & 15 : both >> 4) - 8);
}
inline F16 ScaleAt(const WeightView& w, int n, int k) {
  return w.scales[CodeGroupIndex(n, w.in, k / kWeightGroup) * kTileOutputs + n % kTileOutputs];
}

}  // namespace tandem::kernels
