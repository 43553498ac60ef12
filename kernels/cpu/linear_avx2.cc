// Products with f32 operands on AVX2: bf16 weights are widened in registers, x stays f32.
//
// Tile      R rows by N tiles of 16 outputs, two registers each and at most 12 of the 16; per pair
//           every half line gives its even inputs by one shift and its odd ones by two, which
//           unlike a mask need no register.
// Traffic   2 bytes of weights per product and row block; one row is memory bound.
// Truth     LinearReference; tests/kernels/linear_test.cc.
#include <immintrin.h>

#include "kernels/cpu/linear_finish_avx2.h"
#include "kernels/cpu/linear_kernel.h"
#include "kernels/cpu/linear_loop.h"

namespace tandem::kernels {
namespace {

struct Tile {
  static constexpr int kMaxRows = 6;
  static constexpr size_t kPanelBytes = 8;
  static constexpr size_t kWeightBytes = kLineBytes;
  static constexpr int Tiles(int rows) { return rows <= 2 ? 2 : 1; }

  template <int R, int N>
  static void Run(const TileArgs& args) {
    constexpr int kHalves = 2 * N;
    __m256 sum[R][kHalves];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int h = 0; h < kHalves; ++h) {
        sum[r][h] = args.resume ? _mm256_loadu_ps(args.partial + r * kPartialRow + h * 8)
                                : _mm256_setzero_ps();
      }
    }
    const float* x = reinterpret_cast<const float*>(args.panel);
    const std::byte* w = args.weights;
    const std::byte* ahead = args.ahead;
    const auto half = [&](int h) __attribute__((always_inline)) {
      return _mm256_load_si256(
          reinterpret_cast<const __m256i*>(w + h / 2 * args.tile_bytes + h % 2 * 32));
    };
    const auto run = [&](int pairs) __attribute__((always_inline)) {
      for (int p = 0; p < pairs; ++p) {
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) _mm_prefetch(ahead + n * args.tile_bytes, _MM_HINT_T0);
        __m256 line[kHalves];
#pragma GCC unroll 8
        for (int h = 0; h < kHalves; ++h) {
          line[h] = _mm256_castsi256_ps(_mm256_slli_epi32(half(h), 16));
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const __m256 even_x = _mm256_set1_ps(x[r]);
#pragma GCC unroll 8
          for (int h = 0; h < kHalves; ++h) {
            sum[r][h] = _mm256_fmadd_ps(line[h], even_x, sum[r][h]);
          }
        }
#pragma GCC unroll 8
        for (int h = 0; h < kHalves; ++h) {
          line[h] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_srli_epi32(half(h), 16), 16));
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const __m256 odd_x = _mm256_set1_ps(x[R + r]);
#pragma GCC unroll 8
          for (int h = 0; h < kHalves; ++h) {
            sum[r][h] = _mm256_fmadd_ps(line[h], odd_x, sum[r][h]);
          }
        }
        x += 2 * R;
        w += kLineBytes;
        ahead += args.ahead_step;
      }
    };
    run(args.turn);
    ahead = args.turned;
    run(args.units - args.turn);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int h = 0; h < kHalves; ++h) {
        _mm256_storeu_ps(args.partial + r * kPartialRow + h * 8, sum[r][h]);
      }
    }
  }

  static void Finish(const FinishArgs& args) { FinishAvx2(args); }
};

int64_t MultiplyAdd(int64_t iterations) {
  constexpr int kChains = 12;
  __m256 sum[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.5f);
  const __m256 b = _mm256_set1_ps(0.25f);
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
      sum[i] = _mm256_fmadd_ps(a, b, sum[i]);
      asm volatile("" : "+x"(sum[i]));  // keeps every product
    }
  }
  return iterations * kChains * 8;
}

}  // namespace

const LinearKernel kLinearAvx2 = {.max_block_rows = Tile::kMaxRows,
                                  .unit_inputs = 2,
                                  .panel_bytes = Tile::kPanelBytes,
                                  .weight_bytes = Tile::kWeightBytes,
                                  .pack = PackF32,
                                  .product = Product<Tile>,
                                  .multiply_add = MultiplyAdd};

}  // namespace tandem::kernels
