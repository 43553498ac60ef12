// Products with weights of codes on AVX-512 without VNNI: bytes multiply to 16 bits by vpmaddubsw.
//
// Tile      As linear_codes_vnni.cc with fewer rows. Int8: |code| meets x with the code's sign, as
//           2 * 127 * 127 fits 16 bits where an unsigned code + 128 would not, and every pair is
//           widened to 32 bits. Int4: code + 8 meets x; the 8 pairs of a group fit 16 bits
//           (8 * 2 * 15 * 127 = 30480) and are widened once.
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
  static constexpr int kMaxRows = 4;
  static constexpr size_t kPanelBytes = kCodePanelBytes;
  static constexpr size_t kGroupBytes = kIsInt4 ? kInt4GroupBytes : kInt8GroupBytes;
  static constexpr size_t kWeightBytes = kCodeUnitGroups * kGroupBytes;
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
      [[maybe_unused]] const int* q_sums = reinterpret_cast<const int*>(sx + R);
      // Int8: of 32 bits. Int4: of 16 bits, until the group is complete.
      __m512i dot[R][N];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) dot[r][n] = _mm512_setzero_si512();
      }
      const __m512i ones = _mm512_set1_epi16(1);
#pragma GCC unroll 8
      for (size_t line = 0; line < kGroupBytes / 64; ++line) {
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) {
          const __m512i codes = _mm512_load_si512(w + n * args.tile_bytes + line * 64);
          if constexpr (kIsInt4) {
            const __m512i half = _mm512_set1_epi8(15);
            const __m512i low = _mm512_and_si512(codes, half);
            const __m512i high = _mm512_and_si512(_mm512_srli_epi16(codes, 4), half);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
              const __m512i x_low = _mm512_set1_epi32(q[r * 8 + 2 * line]);
              const __m512i x_high = _mm512_set1_epi32(q[r * 8 + 2 * line + 1]);
              dot[r][n] = _mm512_add_epi16(dot[r][n], _mm512_maddubs_epi16(low, x_low));
              dot[r][n] = _mm512_add_epi16(dot[r][n], _mm512_maddubs_epi16(high, x_high));
            }
          } else {
            const __m512i size = _mm512_abs_epi8(codes);
            const __mmask64 negative = _mm512_movepi8_mask(codes);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
              const __m512i x = _mm512_set1_epi32(q[r * 8 + line]);
              const __m512i turned = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
              dot[r][n] = _mm512_add_epi32(
                  dot[r][n], _mm512_madd_epi16(_mm512_maddubs_epi16(size, turned), ones));
            }
          }
        }
      }
      if constexpr (kIsInt4) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const __m512i start = _mm512_set1_epi32(-8 * q_sums[r]);
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) {
            dot[r][n] = _mm512_add_epi32(start, _mm512_madd_epi16(dot[r][n], ones));
          }
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
  constexpr int kChains = 12;
  __m512i sum[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i] = _mm512_set1_epi32(i);
  const __m512i bytes = _mm512_set1_epi8(1), ones = _mm512_set1_epi16(1);
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
      __m512i pairs = _mm512_maddubs_epi16(bytes, bytes);
      asm volatile("" : "+v"(pairs));  // keeps every product
      sum[i] = _mm512_add_epi32(sum[i], _mm512_madd_epi16(pairs, ones));
      asm volatile("" : "+v"(sum[i]));
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

const CodedKernels kLinearCodesAvx512 = {.int8 = KernelOf<false>(), .int4 = KernelOf<true>()};

}  // namespace tandem::kernels
