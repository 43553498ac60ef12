// Weights as small integers: what the formats int8 and int4 mean, the same for every backend.
//
//   w[n, k] is held as scale[n, k / 32] * code[n, k]        exact in f32
//
// A group is 32 consecutive inputs of one output; the last group of a row may be short, and its
// missing codes are 0. Backends pack codes and scales in orders of their own; the numbers are
// these.
//
//   int8   scale = F16(amax / 127), amax the largest magnitude; codes in [-127, 127]
//   int4   scale = F16(top / -d), top the value of largest magnitude (the first of equals) with its
//          sign and d the one of 8, 7, 7 1/8, 7 2/8 .. 8 7/8 without 8 whose codes give the
//          smallest sum of squared errors (the first of equals); codes in [-8, 7]. A scale may be
//          negative.
//   both   code = w * (1 / scale) rounded to nearest even and clamped; a scale that rounds to zero
//          is +0, and so are its codes.
//
// Source    kernels.md 6.2, last paragraph; the value set of Q4_0 and Q8_0 (kernels.md 6.1).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/types.h"

namespace tandem::kernels {

constexpr int kWeightGroup = 32;

// Groups of a row.
constexpr int WeightGroups(int in) {
  return static_cast<int>((int64_t{in} + kWeightGroup - 1) / kWeightGroup);
}

// Sizes of a packed matrix, the same for every backend: outputs in tiles of 16, inputs in blocks of
// 64, so two groups of 16 scales to a block. In what order a block holds them is a backend's own
// (cpu/code_layout.h, cuda/w_codes_pack.h).
constexpr size_t PackedCodeBlocks(int out, int in) {
  return PackedTiles(out) * ((static_cast<size_t>(in) + 63) / 64);
}
constexpr size_t PackedCodeBytes(WeightFormat format, int out, int in) {
  return PackedCodeBlocks(out, in) * (format == WeightFormat::kInt8 ? 1024 : 512);
}
constexpr size_t PackedCodeScales(int out, int in) { return PackedCodeBlocks(out, in) * 32; }

// Bytes of a matrix in any format, its scales included; what a product reads of it.
constexpr size_t PackedBytes(WeightFormat format, int out, int in) {
  if (format == WeightFormat::kBf16) return PackedElements(out, in) * sizeof(Bf16);
  return PackedCodeBytes(format, out, in) + PackedCodeScales(out, in) * sizeof(F16);
}

// Where the codes and scales of a matrix go.
struct CodeTarget {
  WeightFormat format = WeightFormat::kInt8;  // or kInt4
  std::byte* codes = nullptr;                 // [PackedCodeBytes]
  F16* scales = nullptr;                      // [PackedCodeScales]
};

// Codes of one group.
//   format  kInt8 or kInt4
//   values  [32], zeros behind the end of a row
//   codes   [32]
//   false   a value is not finite or the scale would exceed F16: beyond 65504 * 127 (int8) or
//           65504 * 8 (int4). Codes and scale are then undefined.
bool EncodeWeightGroup(WeightFormat format, const float* values, int8_t* codes, F16& scale);

// Codes of a row of bf16.
//   row     [in] at any alignment
//   codes   [32 * WeightGroups(in)]
//   scales  [WeightGroups(in)]
//   false   as above
bool EncodeWeightRow(WeightFormat format, const std::byte* row, int in, int8_t* codes, F16* scales);

inline float DecodeWeight(F16 scale, int8_t code) {
  return ToFloat(scale) * static_cast<float>(code);
}

}  // namespace tandem::kernels
