// Products with weights of codes by vpdpbusd: 16 outputs by four inputs per instruction.
//
// Tile      R rows by N tiles of 16 outputs: R*N sums of f32 and as many of the group's integers.
//           Weights are the unsigned side: int8 as code + 128 (one flipped bit), so that every dot
//           starts from -128 times the sum of the row's codes, int4 as code + 8 (halves of bytes).
// Traffic   1.0625 (int8) or 0.5625 bytes of weights per output and input; memory bound up to
//           about 12 rows.
// Truth     LinearReference, bit for bit; tests/kernels/linear_codes_test.cc.
#include <immintrin.h>

#include "kernels/cpu/linear_codes.h"
#include "kernels/cpu/linear_codes_pack_avx512.h"
#include "kernels/cpu/linear_finish_avx512.h"
#include "kernels/cpu/linear_loop.h"

namespace tandem::kernels {
namespace {

template <bool kIsInt4>
struct Tile {
  static constexpr int kMaxRows = 6;
  static constexpr size_t kPanelBytes = kCodePanelBytes;
  static constexpr size_t kGroupBytes = kIsInt4 ? kInt4GroupBytes : kInt8GroupBytes;
  static constexpr size_t kWeightBytes = kCodeUnitGroups * kGroupBytes;
  static constexpr int kBias = kIsInt4 ? 8 : 128;
  static constexpr int Tiles(int) { return 2; }

  template <int R, int N>
  static void Run(const TileArgs& args) {
    __m512 sum[R][N];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        sum[r][n] = args.resume ? _mm512_loadu_ps(args.partial + r * kPartialRow + n * 16)
                                : _mm512_setzero_ps();
      }
    }
    const std::byte* panel = args.panel;
    const std::byte* w = args.weights;
    const F16* scales = args.scales;
    const auto group = [&]() __attribute__((always_inline)) {
      const int* q = reinterpret_cast<const int*>(panel);
      const float* sx = reinterpret_cast<const float*>(panel + R * kCodeGroup);
      const int* q_sums = reinterpret_cast<const int*>(sx + R);
      __m512i dot[R][N];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i start = _mm512_set1_epi32(-kBias * q_sums[r]);
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) dot[r][n] = start;
      }
      const auto words = [&](const __m512i(&codes)[N], int j) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const __m512i x = _mm512_set1_epi32(q[r * 8 + j]);
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) dot[r][n] = _mm512_dpbusd_epi32(dot[r][n], codes[n], x);
        }
      };
#pragma GCC unroll 8
      for (size_t line = 0; line < kGroupBytes / 64; ++line) {
        __m512i codes[N];
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) {
          codes[n] = _mm512_load_si512(w + n * args.tile_bytes + line * 64);
        }
        if constexpr (kIsInt4) {
          const __m512i half = _mm512_set1_epi8(15);
          __m512i part[N];
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) part[n] = _mm512_and_si512(codes[n], half);
          words(part, static_cast<int>(2 * line));
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) {
            part[n] = _mm512_and_si512(_mm512_srli_epi16(codes[n], 4), half);
          }
          words(part, static_cast<int>(2 * line + 1));
        } else {
          const __m512i flip = _mm512_set1_epi8(-128);
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) codes[n] = _mm512_xor_si512(codes[n], flip);
          words(codes, static_cast<int>(line));
        }
      }
      __m512 sw[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        sw[n] = _mm512_cvtph_ps(
            _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(scales + n * args.tile_scales)));
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512 x = _mm512_set1_ps(sx[r]);
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) {
          sum[r][n] =
              _mm512_fmadd_ps(_mm512_mul_ps(sw[n], x), _mm512_cvtepi32_ps(dot[r][n]), sum[r][n]);
        }
      }
      panel += R * kCodeGroupPanelBytes;
      w += kGroupBytes;
      scales += kTileOutputs;
    };
    const std::byte* ahead = args.ahead;
    const auto run = [&](int units) __attribute__((always_inline)) {
      for (int u = 0; u < units; ++u) {
        for (size_t line = 0; line < args.ahead_step; line += 64) {
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) {
            _mm_prefetch(ahead + n * args.tile_bytes + line, _MM_HINT_T0);
          }
        }
        ahead += args.ahead_step;
        for (int i = 0; i < kCodeUnitGroups; ++i) group();
      }
    };
    run(args.turn);
    ahead = args.turned;
    run(args.units - args.turn);
#pragma GCC unroll 8
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
  __m512i sum[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) sum[i] = _mm512_set1_epi32(i);
  const __m512i ones = _mm512_set1_epi8(1);
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) {
      sum[i] = _mm512_dpbusd_epi32(sum[i], ones, ones);
      asm volatile("" : "+v"(sum[i]));  // keeps every product
    }
  }
  return iterations * kChains * 64;
}

template <bool kIsInt4>
constexpr LinearKernel KernelOf() {
  using T = Tile<kIsInt4>;
  return {.max_block_rows = T::kMaxRows,
          .unit_inputs = kCodeUnitInputs,
          .panel_bytes = T::kPanelBytes,
          .weight_bytes = T::kWeightBytes,
          .pack = PackCodesAvx512,
          .product = Product<T>,
          .multiply_add = MultiplyAdd};
}

}  // namespace

const CodedKernels kLinearCodesVnni = {.int8 = KernelOf<false>(), .int4 = KernelOf<true>()};

}  // namespace tandem::kernels
