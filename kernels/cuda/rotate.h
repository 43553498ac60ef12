// The rotation of KV rows (turboquant 1.2), a row per warp: lane l holds values l*n .. l*n + n - 1
// of it, n = dim/32.
//
// Shuffles  5*n: stages at distance h >= n exchange with the lane h/n away.
// Bits      those of RotateReference (kernels/reference/kv_row_ref.h): the stages fix each
// rounding.
#pragma once

#include <type_traits>
#include <utility>

#include "kernels/cuda/kport.h"
#include "kernels/kv_row.h"

namespace tandem::kernels::K_WORLD {

// One 32-bit piece of the signs, by selects: an indexed table would live in local memory.
template <size_t... kPieces>
K_DEVICE uint32_t SignPiece(int piece, std::index_sequence<kPieces...>) {
  uint32_t bits = 0;
  ((bits = piece == static_cast<int>(kPieces)
               ? std::integral_constant<uint32_t, static_cast<uint32_t>(kKvSignWords[kPieces / 2] >>
                                                                        kPieces % 2 * 32)>::value
               : bits),
   ...);
  return bits;
}

// y = s y
template <int kDim>
K_DEVICE void FlipSigns(float (&y)[kDim / kWarp], int lane) {
  constexpr int kValues = kDim / kWarp;
  constexpr int kSharers = 32 / kValues;  // lanes whose signs are in one piece
  const uint32_t bits = SignPiece(lane / kSharers, std::make_index_sequence<kDim / 32>()) >>
                        lane % kSharers * kValues;
  K_UNROLL
  for (int i = 0; i < kValues; ++i) y[i] = f32_of_bits(f32_bits(y[i]) ^ bits >> i << 31);
}

// y = H y, not scaled.
template <int kDim>
K_DEVICE void Hadamard(float (&y)[kDim / kWarp], int lane) {
  constexpr int kValues = kDim / kWarp;
  K_UNROLL
  for (int h = 1; h < kValues; h *= 2) {
    K_UNROLL
    for (int i = 0; i < kValues; ++i) {
      if ((i & h) == 0) {
        const float a = y[i], b = y[i + h];
        y[i] = add_rn(a, b);
        y[i + h] = add_rn(a, -b);
      }
    }
  }
  K_UNROLL
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const bool upper = (lane & distance) != 0;
    K_UNROLL
    for (int i = 0; i < kValues; ++i) {
      const float other = __shfl_xor_sync(kFullMask, y[i], distance);
      y[i] = add_rn(other, upper ? -y[i] : y[i]);
    }
  }
}

// What makes H s and s H orthogonal.
template <int kDim>
constexpr float kRotationScale = kDim == 256 ? kKvInverseSqrtDim[2] : kKvInverseSqrtDim[3];

}  // namespace tandem::kernels::K_WORLD
