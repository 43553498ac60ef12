// Products with f32 operands on AVX-512: bf16 weights are widened in registers, x stays f32.
//
// Tile      As linear_avx512bf16.cc, R rows by N tiles. A weight line gives its even inputs by a
//           shift and its odd ones by a mask; each meets R broadcasts in R*N fused multiply-adds.
//           R*N is at most 24: with more the compiler spills sums.
// Traffic   the same weight bytes; twice the instructions per weight and twice the panel.
// Truth     LinearReference; tests/kernels/linear_test.cc.
#include <immintrin.h>

#include "kernels/cpu/linear_finish_avx512.h"
#include "kernels/cpu/linear_kernel.h"
#include "kernels/cpu/linear_loop.h"

namespace tandem::kernels {
namespace {

struct Tile {
  static constexpr int kMaxRows = 12;
  static constexpr size_t kPanelBytes = 8;
  static constexpr size_t kWeightBytes = kLineBytes;
  static constexpr int Tiles(int) { return 2; }

  template <int R, int N>
  static void Run(const TileArgs& args) {
    __m512 sum[R][N];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        sum[r][n] = args.resume ? _mm512_loadu_ps(args.partial + r * kPartialRow + n * 16)
                                : _mm512_setzero_ps();
      }
    }
    const float* x = reinterpret_cast<const float*>(args.panel);
    const std::byte* w = args.weights;
    const std::byte* ahead = args.ahead;
    const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    const auto run = [&](int pairs) __attribute__((always_inline)) {
      for (int p = 0; p < pairs; ++p) {
        __m512 line[N];
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) {
          _mm_prefetch(ahead + n * args.tile_bytes, _MM_HINT_T0);
          line[n] = _mm512_castsi512_ps(
              _mm512_slli_epi32(_mm512_load_si512(w + n * args.tile_bytes), 16));
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const __m512 even = _mm512_set1_ps(x[r]);
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) sum[r][n] = _mm512_fmadd_ps(line[n], even, sum[r][n]);
        }
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) {
          line[n] = _mm512_castsi512_ps(
              _mm512_and_si512(_mm512_load_si512(w + n * args.tile_bytes), odd));
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const __m512 value = _mm512_set1_ps(x[R + r]);
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) sum[r][n] = _mm512_fmadd_ps(line[n], value, sum[r][n]);
        }
        x += 2 * R;
        w += kLineBytes;
        ahead += args.ahead_step;
      }
    };
    run(args.turn);
    ahead = args.turned;
    run(args.units - args.turn);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        _mm512_storeu_ps(args.partial + r * kPartialRow + n * 16, sum[r][n]);
      }
    }
  }

  static void Finish(const FinishArgs& args) { FinishAvx512(args); }
};

int64_t MultiplyAdd(int64_t iterations) {
  constexpr int kChains = 24;
  __m512 sum[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.5f);
  const __m512 b = _mm512_set1_ps(0.25f);
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) {
      sum[i] = _mm512_fmadd_ps(a, b, sum[i]);
      asm volatile("" : "+v"(sum[i]));  // keeps every product
    }
  }
  return iterations * kChains * 16;
}

}  // namespace

const LinearKernel kLinearAvx512 = {.max_block_rows = Tile::kMaxRows,
                                    .unit_inputs = 2,
                                    .panel_bytes = Tile::kPanelBytes,
                                    .weight_bytes = Tile::kWeightBytes,
                                    .pack = PackF32,
                                    .product = Product<Tile>,
                                    .multiply_add = MultiplyAdd};

}  // namespace tandem::kernels
