// Stored K and V values as operands of matrix instructions, decoded in registers.
//
//   kBf16             bf16 as stored
//   kF16              f16 as stored
//   kQ8               f16 n/128, exact
//   kTurbo4, 3, 2     f16 V/128, exact: bytes looked up by prmt (turboquant 2.2, 2.5)
//
// A format is a parameter everywhere: where it is a constant only its own code stays.
//
// Not here  the scale of a row: it multiplies scores and weights, never values.
// Truth     DecodeRowReference (kernels/reference/kv_row_ref.h); tests/emu/attention_cells_test.cc.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// Whether the operand is bf16; f16 in all other formats.
K_DEVICE bool IsBf16Operand(KvFormat format) { return format == KvFormat::kBf16; }

// The rows of one side (K or V) of a head-block, and one of them.
struct KvOperandRow {
  const std::byte* codes = nullptr;  // the side's first row
  int log2_block_tokens = 0;
  int cell = 0;
  bool valid = false;  // false: nothing is read, all values are finite
};

// kWords words of 4 bytes at p, one access, or zeros.
template <int kWords>
K_DEVICE Vec<uint32_t, kWords> LoadWords(const std::byte* p, bool valid) {
  Vec<uint32_t, kWords> words = {};
  if (valid) words = ld_nc(reinterpret_cast<const Vec<uint32_t, kWords>*>(p));
  return words;
}

// Eight values as words of two, the lower dimension in the low half.
struct Octet {
  uint32_t words[4];
};

// Low and high bytes of eight f16: a holds values 0-3, b 4-7.
K_DEVICE Octet JoinBytes(uint32_t low_a, uint32_t high_a, uint32_t low_b, uint32_t high_b) {
  return {{prmt(low_a, high_a, 0x5140u), prmt(low_a, high_a, 0x7362u), prmt(low_b, high_b, 0x5140u),
           prmt(low_b, high_b, 0x7362u)}};
}

// Eight codes of kTurbo4.
K_DEVICE Octet DecodeTurbo4(uint32_t codes) {
  // f16 of the magnitudes / 128: 2d80 3420 36e0 38f0 3a90 3c38 3d68 3f28.
  const uint32_t a = codes & 0x77777777u, b = a >> 16;
  const uint32_t high_a = prmt(0x3836342du, 0x3f3d3c3au, a) | (codes & 0x80808080u);
  const uint32_t high_b = prmt(0x3836342du, 0x3f3d3c3au, b) | (codes << 4 & 0x80808080u);
  return JoinBytes(prmt(0xf0e02080u, 0x28683890u, a), high_a, prmt(0xf0e02080u, 0x28683890u, b),
                   high_b);
}

// Eight levels of kTurbo3, one in the low three bits of each nibble.
K_DEVICE Octet DecodeTurbo3(uint32_t levels) {
  // f16 of the levels / 128: bed8 bc48 b8d0 b240 3240 38d0 3c48 3ed8.
  const uint32_t b = levels >> 16;
  return JoinBytes(prmt(0x40d048d8u, 0xd848d040u, levels), prmt(0xb2b8bcbeu, 0x3e3c3832u, levels),
                   prmt(0x40d048d8u, 0xd848d040u, b), prmt(0xb2b8bcbeu, 0x3e3c3832u, b));
}

// Eight levels of kTurbo2, one in the low two bits of each nibble.
K_DEVICE Octet DecodeTurbo2(uint32_t levels) {
  // f16 of the levels / 128: bf68 b870 3870 3f68.
  constexpr uint32_t kLow = 0x68707068u, kHigh = 0x3f38b8bfu;
  const uint32_t b = levels >> 16;
  return JoinBytes(prmt(kLow, kLow, levels), prmt(kHigh, kHigh, levels), prmt(kLow, kLow, b),
                   prmt(kHigh, kHigh, b));
}

// Eight codes of kQ8. The byte n + 128 below 0x48 is the f16 8 + (n + 128)/128.
K_DEVICE Octet DecodeQ8(uint32_t codes_a, uint32_t codes_b) {
  constexpr uint32_t kExponents = 0x48484848u, kNines = 0x48804880u;
  const uint32_t a = codes_a ^ 0x80808080u, b = codes_b ^ 0x80808080u;
  return {{sub_f16x2(prmt(a, kExponents, 0x4140u), kNines),
           sub_f16x2(prmt(a, kExponents, 0x4342u), kNines),
           sub_f16x2(prmt(b, kExponents, 0x4140u), kNines),
           sub_f16x2(prmt(b, kExponents, 0x4342u), kNines)}};
}

// The bytes behind 16 values of a row.
struct Codes16 {
  uint32_t words[8];
};

// Values first_dim .. first_dim + 15, first_dim a multiple of 16.
template <int kDim>
K_DEVICE Codes16 Load16(KvFormat format, const KvOperandRow& row, int first_dim) {
  Codes16 codes = {};
  switch (format) {
    case KvFormat::kF32:
      break;  // refused when a model is loaded
    case KvFormat::kBf16:
    case KvFormat::kF16: {
      const std::byte* at = row.codes + row.cell * (2 * kDim) + 2 * first_dim;
      const auto a = LoadWords<4>(at, row.valid), b = LoadWords<4>(at + 16, row.valid);
      K_UNROLL
      for (int i = 0; i < 4; ++i) {
        codes.words[i] = a[i];
        codes.words[4 + i] = b[i];
      }
      break;
    }
    case KvFormat::kQ8: {
      const auto a = LoadWords<4>(row.codes + row.cell * kDim + first_dim, row.valid);
      K_UNROLL
      for (int i = 0; i < 4; ++i) codes.words[i] = a[i];
      break;
    }
    case KvFormat::kTurbo4: {
      const auto a = LoadWords<2>(row.codes + row.cell * (kDim / 2) + first_dim / 2, row.valid);
      codes.words[0] = a[0];
      codes.words[1] = a[1];
      break;
    }
    case KvFormat::kTurbo3: {
      const std::byte* high = row.codes + (kDim / 4 << row.log2_block_tokens) +
                              row.cell * (kDim / 8) + first_dim / 32 * 4;
      codes.words[1] = LoadWords<1>(high, row.valid)[0] >> first_dim / 16 % 2 * 2;
      codes.words[0] =
          LoadWords<1>(row.codes + row.cell * (kDim / 4) + first_dim / 4, row.valid)[0];
      break;
    }
    case KvFormat::kTurbo2:
      codes.words[0] =
          LoadWords<1>(row.codes + row.cell * (kDim / 4) + first_dim / 4, row.valid)[0];
      break;
  }
  return codes;
}

// Octet kHalf of them.
template <int kHalf>
K_DEVICE Octet Decode16(KvFormat format, const Codes16& codes) {
  const uint32_t levels = codes.words[0] >> 2 * kHalf & 0x33333333u;
  switch (format) {
    case KvFormat::kQ8:
      return DecodeQ8(codes.words[2 * kHalf], codes.words[2 * kHalf + 1]);
    case KvFormat::kTurbo4:
      return DecodeTurbo4(codes.words[kHalf]);
    case KvFormat::kTurbo3:
      return DecodeTurbo3(levels | (codes.words[1] << (2 - kHalf) & 0x44444444u));
    case KvFormat::kTurbo2:
      return DecodeTurbo2(levels);
    default:
      return {{codes.words[4 * kHalf], codes.words[4 * kHalf + 1], codes.words[4 * kHalf + 2],
               codes.words[4 * kHalf + 3]}};
  }
}

// Values first_dim .. first_dim + 7, first_dim a multiple of 8.
template <int kDim>
K_DEVICE Octet Load8(KvFormat format, const KvOperandRow& row, int first_dim) {
  switch (format) {
    case KvFormat::kF32:
      break;  // refused when a model is loaded
    case KvFormat::kBf16:
    case KvFormat::kF16: {
      const auto a = LoadWords<4>(row.codes + row.cell * (2 * kDim) + 2 * first_dim, row.valid);
      return {{a[0], a[1], a[2], a[3]}};
    }
    case KvFormat::kQ8: {
      const auto a = LoadWords<2>(row.codes + row.cell * kDim + first_dim, row.valid);
      return DecodeQ8(a[0], a[1]);
    }
    case KvFormat::kTurbo4:
      return DecodeTurbo4(
          LoadWords<1>(row.codes + row.cell * (kDim / 2) + first_dim / 2, row.valid)[0]);
    case KvFormat::kTurbo3: {
      const std::byte* low = row.codes + row.cell * (kDim / 4) + first_dim / 16 * 4;
      const std::byte* high = row.codes + (kDim / 4 << row.log2_block_tokens) +
                              row.cell * (kDim / 8) + first_dim / 32 * 4;
      const uint32_t levels =
          LoadWords<1>(low, row.valid)[0] >> first_dim / 8 % 2 * 2 & 0x33333333u;
      const uint32_t signs = LoadWords<1>(high, row.valid)[0] >> first_dim / 8 % 4;
      return DecodeTurbo3(levels | (signs << 2 & 0x44444444u));
    }
    case KvFormat::kTurbo2: {
      const std::byte* low = row.codes + row.cell * (kDim / 4) + first_dim / 16 * 4;
      return DecodeTurbo2(LoadWords<1>(low, row.valid)[0] >> first_dim / 8 % 2 * 2 & 0x33333333u);
    }
  }
  return {};
}

}  // namespace tandem::kernels::K_WORLD
