// Plain types that every backend shares: 16-bit floats, KV formats, where a KV row lives.
//
// Not here  who owns the bytes (kvcache/block_store.h); arithmetic on them (ops.h).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace tandem::kernels {

// bfloat16 as stored: the upper half of a binary32.
struct Bf16 {
  uint16_t bits = 0;
};

inline float ToFloat(Bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

// Nearest bf16, ties to even; NaN stays NaN.
inline Bf16 ToBf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}

// IEEE binary16 as stored.
struct F16 {
  uint16_t bits = 0;
};

// Exact; infinities and NaN stay what they are.
inline float ToFloat(F16 x) {
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16;
  const uint32_t exponent = x.bits >> 10 & 0x1f;
  const uint32_t fraction = x.bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  // A subnormal is fraction * 2^-24.
  const float value = exponent == 0 ? static_cast<float>(fraction) * 0x1p-24f
                                    : std::bit_cast<float>((exponent + 112) << 23 | fraction << 13);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
}

// Nearest binary16, ties to even, subnormals kept; infinity from 65520 on; NaN stays NaN.
inline F16 ToF16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14, the smallest normal
    half = (magnitude + 0xfffu + (magnitude >> 13 & 1) - (uint32_t{112} << 23)) >> 13;
  } else {
    // In units of 2^-24: the fraction shifted down by 14 to 24 places, or all of it lost.
    const uint32_t exponent = magnitude >> 23;
    const uint32_t shift = 126 - exponent;
    if (exponent < 102) {
      half = 0;
    } else {
      const uint32_t fraction = (magnitude & 0x7fffffu) | 0x800000u;
      const uint32_t kept = fraction >> shift;
      const uint32_t lost = fraction & ((uint32_t{1} << shift) - 1);
      const uint32_t tie = uint32_t{1} << (shift - 1);
      half = kept + (lost > tie || (lost == tie && (kept & 1) != 0) ? 1 : 0);
    }
  }
  return {static_cast<uint16_t>(sign | half)};
}

// How one KV row (one token of one KV head, `head_dim` values) is stored; ids of turboquant 2.2.
enum class KvFormat : uint8_t {
  kF32 = 0,
  kBf16 = 1,
  kF16 = 2,
  // Rotated (turboquant 1.2), with one F16 scale sigma per row. Values are sigma/128 times
  kQ8 = 3,      // an int8
  kTurbo4 = 4,  // one of 16, 8 and 4 odd integers: the codebooks of turboquant 1.4
  kTurbo3 = 5,
  kTurbo2 = 6,
};
constexpr int kNumKvFormats = 7;

// Whether rows are rotated and have a scale.
constexpr bool KvHasScale(KvFormat format) { return format >= KvFormat::kQ8; }

// Bits of one code.
constexpr int KvCodeBits(KvFormat format) {
  constexpr int kBits[kNumKvFormats] = {32, 16, 16, 8, 4, 3, 2};
  return kBits[static_cast<int>(format)];
}

// Bytes of the codes of one row, its scale not counted; head_dim is a multiple of 16, for formats
// with a scale a power of two from 64 on.
constexpr size_t KvRowBytes(KvFormat format, int head_dim) {
  return static_cast<size_t>(head_dim) * KvCodeBits(format) / 8;
}

// The K and V rows of one layer in the blocks of its KV group. A block holds P =
// 2^log2_block_tokens tokens; for each KV head it has one head-block (spec: head-page,
// turboquant 2.2):
//   K codes   P rows of KvRowBytes; kTurbo3: P rows of low bits, head_dim/4 bytes each, then P rows
//             of high bits, head_dim/8 bytes each
//   V codes   at v_offset, by the same rule
//   K scales  P F16 at k_scale_offset, only of formats that have them
//   V scales  P F16 at v_scale_offset, likewise
// Head-block of (block, head) = base + block*block_stride + head*head_stride; offsets count from
// it.
struct KvView {
  std::byte* base = nullptr;
  size_t block_stride = 0;  // bytes
  size_t head_stride = 0;   // bytes
  size_t v_offset = 0;
  size_t k_scale_offset = 0;
  size_t v_scale_offset = 0;
  int log2_block_tokens = 5;
  KvFormat k_format = KvFormat::kBf16;
  KvFormat v_format = KvFormat::kBf16;
};

// How a weight matrix is held. Int8 and int4 have an F16 scale for every 32 inputs of an output
// (weight_codes.h).
enum class WeightFormat : uint8_t { kBf16 = 0, kInt8 = 1, kInt4 = 2 };

// A linear weight W [out, in] of y = W x. On the CPU bf16 is packed as
//   data [ceil(out/16)][ceil(in/2)][16][2], element (n, k) at [n/16][k/2][n%16][k%2],
// zero where n >= out or k >= in; 64-byte aligned. One 64-byte line is one pair of inputs of 16
// outputs, which is what vdpbf16ps and AMX eat and what widens to f32 by a shift and a mask.
struct WeightView {
  const Bf16* data = nullptr;  // null unless bf16
  int out = 0;
  int in = 0;
  WeightFormat format = WeightFormat::kBf16;
  const std::byte* codes = nullptr;  // of the other formats, as the backend packs them
  const F16* scales = nullptr;       // likewise
};

constexpr int kTileOutputs = 16;

constexpr size_t PackedTiles(int out) { return (static_cast<size_t>(out) + 15) / 16; }
constexpr size_t PackedElements(int out, int in) {
  return PackedTiles(out) * ((static_cast<size_t>(in) + 1) / 2) * 32;
}

}  // namespace tandem::kernels
