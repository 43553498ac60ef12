// Packed weight codes (w_codes_pack.h) as operands of the matrix instruction, in registers.
#pragma once

#include "kernels/cuda/kport.h"
#include "kernels/cuda/w_codes_pack.h"

namespace tandem::kernels::K_WORLD {

// 128 as bf16, twice; the seven bits below it count ones.
constexpr uint32_t kBf16x2Of128 = 0x43004300u;

// The four pairs of rows g, g + 8, g, g + 8 from the eight nibbles of a word, as exact bf16: 128 +
// nibble less 136.
K_DEVICE void DecodeInt4(uint32_t (&pairs)[4], uint32_t word) {
  K_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int shift = 8 * (i % 2) + 4 * (i / 2);
    pairs[i] = sub_bf16x2((word >> shift & 0x000f000fu) | kBf16x2Of128, 0x43084308u);
  }
}

// The pairs of rows g and g + 8 from the four bytes of a word, as exact bf16: 128 + the low seven
// bits, less 128 or, where the eighth is set, 256.
K_DEVICE void DecodeInt8(uint32_t& low, uint32_t& high, uint32_t word) {
  const uint32_t up = word >> 8;
  low = sub_bf16x2((word & 0x007f007fu) | kBf16x2Of128, (word & 0x00800080u) | kBf16x2Of128);
  high = sub_bf16x2((up & 0x007f007fu) | kBf16x2Of128, (up & 0x00800080u) | kBf16x2Of128);
}

}  // namespace tandem::kernels::K_WORLD
