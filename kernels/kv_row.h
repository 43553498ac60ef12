// One stored KV row: where its parts lie, and the numbers behind its codes (turboquant 1.2, 1.4).
//
// Not here  what a row's bytes are (reference/kv_row_ref.h defines them). Instruction-set files
//           take the types and constants from here, not the functions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/types.h"

namespace tandem::kernels {

constexpr int kMaxKvRowDim = 512;

// One token of one KV head, K or V.
struct KvRow {
  std::byte* codes = nullptr;      // kTurbo3: the low plane, dim/4 bytes
  std::byte* high_bits = nullptr;  // kTurbo3: the high plane, dim/8 bytes; null in other formats
  F16* scale = nullptr;            // null in formats without one
};

// What became of a row when it was stored. Formats without a scale always say kOk.
enum class KvRowStatus : uint8_t {
  kOk,
  kZero,       // its norm is below about 1e-15: codes and scale are 0
  kClamped,    // its scale was cut to the largest F16
  kNonfinite,  // NaN, infinity or a norm above about 7e17: codes and scale are 0
};

// A head-block's part of one side (K or V): `codes` at the side's offset, `scales` at its scales'.
inline KvRow KvRowIn(std::byte* codes, std::byte* scales, KvFormat format, int log2_block_tokens,
                     int cell, int head_dim) {
  KvRow row;
  if (format == KvFormat::kTurbo3) {
    const size_t low_bytes = static_cast<size_t>(head_dim) / 4;
    const size_t high_bytes = static_cast<size_t>(head_dim) / 8;
    row.codes = codes + cell * low_bytes;
    row.high_bits = codes + (low_bytes << log2_block_tokens) + cell * high_bytes;
  } else {
    row.codes = codes + cell * KvRowBytes(format, head_dim);
  }
  if (KvHasScale(format)) row.scale = reinterpret_cast<F16*>(scales) + cell;
  return row;
}

inline KvRow KRowAt(const KvView& kv, int64_t block, int head, int cell, int head_dim) {
  std::byte* at = kv.base + block * kv.block_stride + head * kv.head_stride;
  return KvRowIn(at, at + kv.k_scale_offset, kv.k_format, kv.log2_block_tokens, cell, head_dim);
}

inline KvRow VRowAt(const KvView& kv, int64_t block, int head, int cell, int head_dim) {
  std::byte* at = kv.base + block * kv.block_stride + head * kv.head_stride;
  return KvRowIn(at + kv.v_offset, at + kv.v_scale_offset, kv.v_format, kv.log2_block_tokens, cell,
                 head_dim);
}

// The rotation is R = (1/sqrt(d)) H diag(s), H the Sylvester-order Walsh-Hadamard matrix. Bit
// i % 64 of word i / 64 set: s_i = -1. SplitMix64 from seed 42.
inline constexpr uint64_t kKvSignWords[8] = {
    0xbdd732262feb6e95, 0x28efe333b266f103, 0x47526757130f9f52, 0x581ce1ff0e4ae394,
    0x09bc585a244823f2, 0xde4431fa3c80db06, 0x37e9671c45376d5d, 0xccf635ee9e9e2fa4};

// 1/sqrt(64 << i) in f32.
inline constexpr float kKvInverseSqrtDim[4] = {
    std::bit_cast<float>(0x3e000000u), std::bit_cast<float>(0x3db504f3u),
    std::bit_cast<float>(0x3d800000u), std::bit_cast<float>(0x3d3504f3u)};

// A turbo codebook: odd magnitudes V, ascending, met by either sign. A unit-variance coordinate
// times `gain` has magnitude number #{k : |u| >= thresholds[k]}.
struct KvCodebook {
  int num_magnitudes;
  uint8_t magnitudes[8];  // [num_magnitudes], 0 behind them
  uint8_t thresholds[7];  // [num_magnitudes - 1]
  float gain;
};

inline constexpr KvCodebook kTurbo4Codebook = {.num_magnitudes = 8,
                                               .magnitudes = {11, 33, 55, 79, 105, 135, 173, 229},
                                               .thresholds = {22, 44, 67, 92, 120, 154, 201},
                                               .gain = std::bit_cast<float>(0x42a76fe2u)};
inline constexpr KvCodebook kTurbo3Codebook = {.num_magnitudes = 4,
                                               .magnitudes = {25, 77, 137, 219},
                                               .thresholds = {51, 107, 178},
                                               .gain = std::bit_cast<float>(0x42cb9ea3u)};
inline constexpr KvCodebook kTurbo2Codebook = {.num_magnitudes = 2,
                                               .magnitudes = {71, 237},
                                               .thresholds = {154},
                                               .gain = std::bit_cast<float>(0x431ce783u)};

}  // namespace tandem::kernels
