// What becomes of the sums of a block of a linear layer: stored as they are, or through GeGLU.
#pragma once

#include "kernels/cuda/gelu.h"
#include "kernels/cuda/kport.h"
#include "kernels/cuda/w_linear.h"
#include "kernels/cuda/w_linear_tile.h"

namespace tandem::kernels::K_WORLD {

// One of the three is not null.
struct LinearResult {
  bf16* y = nullptr;  // [rows, stride]
  float* y_f32 = nullptr;
  bf16* geglu = nullptr;  // of interleaved gate and up; needs an even number of tiles
  int64_t stride = 0;
  int width = 0;  // values of a row
};

// `partials` as SumSegments filled them, behind a barrier.
template <int kTiles, int kColumns>
K_DEVICE void StoreResult(const float* partials, LinearPosition at, int rows,
                          const LinearResult& result) {
  using Tile = LinearTile<kTiles, kColumns>;
  const int thread = static_cast<int>(threadIdx.x);
  if (result.geglu == nullptr) {
    for (int e = thread; e < Tile::kRows * Tile::kOutputs; e += kLinearThreads) {
      const int row = e / Tile::kOutputs, output = e % Tile::kOutputs;
      const int n = at.first_output + output;
      if (at.first_row + row < rows && n < result.width) {
        const float y = SumOfSegments<kTiles, kColumns>(partials, row, output);
        const int64_t to = (at.first_row + row) * result.stride + n;
        if (result.y != nullptr) {
          st(result.y + to, f32_to_bf16_rn(y));
        } else {
          st(result.y_f32 + to, y);
        }
      }
    }
  } else if constexpr (kTiles % 2 == 0) {
    constexpr int kWidth = Tile::kOutputs / 2;
    for (int e = thread; e < Tile::kRows * kWidth; e += kLinearThreads) {
      const int row = e / kWidth, i = e % kWidth;
      const int n = at.first_output / 2 + i;
      if (at.first_row + row < rows && n < result.width) {
        const int gate = i / 16 * 32 + i % 16;
        const float y = mul_rn(gelu_tanh(SumOfSegments<kTiles, kColumns>(partials, row, gate)),
                               SumOfSegments<kTiles, kColumns>(partials, row, gate + 16));
        st(result.geglu + (at.first_row + row) * result.stride + n, f32_to_bf16_rn(y));
      }
    }
  }
}

template <typename Operands>
struct LinearVariant {
  WLinearTile tile;
  void (*kernel)(Operands, LinearResult);
};

// The variant of this tile, the first where there is none or GeGLU can not use it.
template <typename Operands, int kCount>
void LaunchVariant(const LinearVariant<Operands> (&variants)[kCount], WLinearTile tile,
                   const Operands& operands, const LinearResult& result, Stream stream) {
  if (operands.rows == 0) return;
  const LinearVariant<Operands>* chosen = &variants[0];
  for (const LinearVariant<Operands>& v : variants) {
    if (v.tile.tiles == tile.tiles && v.tile.columns == tile.columns &&
        (result.geglu == nullptr || v.tile.tiles % 2 == 0)) {
      chosen = &v;
    }
  }
  launch(chosen->kernel, LinearBlocks(operands, chosen->tile.tiles, chosen->tile.columns),
         kLinearThreads, 0, stream, operands, result);
}

}  // namespace tandem::kernels::K_WORLD
