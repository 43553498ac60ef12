// Products with weights of codes on AVX2: bytes multiply to 16 bits by vpmaddubsw.
//
// Tile      R rows by one tile, two registers of integers each; the f32 sums stay in L1. Int8:
//           |code| meets x with the code's sign, as 2 * 127 * 127 fits 16 bits where an unsigned
//           code + 128 would not, and every pair is widened to 32 bits. Int4: code + 8 meets x; the
//           8 pairs of a group fit 16 bits (8 * 2 * 15 * 127 = 30480) and are widened once.
// Traffic   1.0625 (int8) or 0.5625 bytes of weights per output, input and row block.
// Truth     LinearReference, bit for bit; tests/kernels/linear_codes_test.cc.
#include <immintrin.h>

#include "kernels/cpu/linear_codes.h"
#include "kernels/cpu/linear_finish_avx2.h"
#include "kernels/cpu/linear_loop.h"

namespace tandem::kernels {
namespace {

template <bool kIsInt4>
struct Tile {
  static constexpr int kMaxRows = 4;
  static constexpr size_t kPanelBytes = kCodePanelBytes;
  static constexpr size_t kGroupBytes = kIsInt4 ? kInt4GroupBytes : kInt8GroupBytes;
  static constexpr size_t kWeightBytes = kCodeUnitGroups * kGroupBytes;
  static constexpr int Tiles(int) { return 1; }

  template <int R, int N>
  static void Run(const TileArgs& args) {
    constexpr int kHalves = 2;
    if (!args.resume) {
      for (int r = 0; r < R; ++r) {
        for (int h = 0; h < kHalves; ++h) {
          _mm256_storeu_ps(args.partial + r * kPartialRow + h * 8, _mm256_setzero_ps());
        }
      }
    }
    const std::byte* panel = args.panel;
    const std::byte* w = args.weights;
    const F16* scales = args.scales;
    const __m256i ones = _mm256_set1_epi16(1);
    const auto group = [&]() __attribute__((always_inline)) {
      const int* q = reinterpret_cast<const int*>(panel);
      const float* sx = reinterpret_cast<const float*>(panel + R * kCodeGroup);
      [[maybe_unused]] const int* q_sums = reinterpret_cast<const int*>(sx + R);
      // Int8: of 32 bits. Int4: of 16 bits, until the group is complete.
      __m256i dot[R][kHalves];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) dot[r][h] = _mm256_setzero_si256();
      }
#pragma GCC unroll 8
      for (size_t line = 0; line < kGroupBytes / 64; ++line) {
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) {
          const __m256i codes =
              _mm256_load_si256(reinterpret_cast<const __m256i*>(w + line * 64 + h * 32));
          if constexpr (kIsInt4) {
            const __m256i half = _mm256_set1_epi8(15);
            const __m256i low = _mm256_and_si256(codes, half);
            const __m256i high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), half);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
              const __m256i x_low = _mm256_set1_epi32(q[r * 8 + 2 * line]);
              const __m256i x_high = _mm256_set1_epi32(q[r * 8 + 2 * line + 1]);
              dot[r][h] = _mm256_add_epi16(dot[r][h], _mm256_maddubs_epi16(low, x_low));
              dot[r][h] = _mm256_add_epi16(dot[r][h], _mm256_maddubs_epi16(high, x_high));
            }
          } else {
            const __m256i size = _mm256_abs_epi8(codes);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
              const __m256i x = _mm256_sign_epi8(_mm256_set1_epi32(q[r * 8 + line]), codes);
              dot[r][h] = _mm256_add_epi32(dot[r][h],
                                           _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), ones));
            }
          }
        }
      }
      __m256 sw[kHalves];
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        sw[h] =
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(scales + h * 8)));
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m256 x = _mm256_set1_ps(sx[r]);
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) {
          if constexpr (kIsInt4) {
            dot[r][h] = _mm256_add_epi32(_mm256_set1_epi32(-8 * q_sums[r]),
                                         _mm256_madd_epi16(dot[r][h], ones));
          }
          float* const sum = args.partial + r * kPartialRow + h * 8;
          _mm256_storeu_ps(sum,
                           _mm256_fmadd_ps(_mm256_mul_ps(sw[h], x), _mm256_cvtepi32_ps(dot[r][h]),
                                           _mm256_loadu_ps(sum)));
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
          _mm_prefetch(ahead + line, _MM_HINT_T0);
        }
        ahead += args.ahead_step;
        for (int i = 0; i < kCodeUnitGroups; ++i) group();
      }
    };
    run(args.turn);
    ahead = args.turned;
    run(args.units - args.turn);
  }

  static void Finish(const FinishArgs& args) { FinishAvx2(args); }
};

// The rows of a panel, as linear_codes.h has them.
void PackCodes(const PackTask& task) {
  constexpr int kParts = kCodeGroup / 8;
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int r = 0; r < task.rows; ++r) {
    const float* x = task.x + (task.row_ids != nullptr ? task.row_ids[r] : r) * task.x_stride;
    for (int g = kCodeUnitGroups * task.unit_begin; g < kCodeUnitGroups * task.unit_end; ++g) {
      std::byte* const group = task.panel + g * task.rows * kCodeGroupPanelBytes;
      std::byte* const q = group + r * kCodeGroup;
      float* const scale = reinterpret_cast<float*>(group + task.rows * kCodeGroup) + r;
      int* const q_sum = reinterpret_cast<int*>(group + task.rows * (kCodeGroup + 4)) + r;

      __m256 values[kParts];
      // Magnitudes in the order of their bits: whatever is not finite comes out on top.
      __m256i most = _mm256_setzero_si256();
      for (int i = 0; i < kParts; ++i) {
        const int k = g * kCodeGroup + i * 8;
        values[i] =
            _mm256_maskload_ps(x + k, _mm256_cmpgt_epi32(_mm256_set1_epi32(task.in - k), lanes));
        most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(values[i]), magnitude));
      }
      __m128i top = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
      top = _mm_max_epi32(top, _mm_shuffle_epi32(top, 0x4e));
      top = _mm_max_epi32(top, _mm_shuffle_epi32(top, 0xb1));
      const int bits = _mm_cvtsi128_si32(top);
      const float amax = _mm_cvtss_f32(_mm_castsi128_ps(top));
      __m256i codes[kParts];
      for (int i = 0; i < kParts; ++i) codes[i] = _mm256_setzero_si256();
      *scale = 0.0f;
      if (bits >= kInfinityBits) {
        *scale = __builtin_nanf("");
      } else if (amax >= kLeastAmax) {
        *scale = amax / 127.0f;
        const __m256 inverse = _mm256_set1_ps(127.0f / amax);
        for (int i = 0; i < kParts; ++i) {
          codes[i] = _mm256_cvtps_epi32(_mm256_mul_ps(values[i], inverse));
        }
      }
      __m256i sum = _mm256_setzero_si256();
      for (int i = 0; i < kParts; ++i) sum = _mm256_add_epi32(sum, codes[i]);
      __m128i total = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
      total = _mm_add_epi32(total, _mm_shuffle_epi32(total, 0x4e));
      total = _mm_add_epi32(total, _mm_shuffle_epi32(total, 0xb1));
      *q_sum = _mm_cvtsi128_si32(total);
      // Packing works in 128-bit parts: the words come out as 0 2 4 6 1 3 5 7.
      const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(codes[0], codes[1]),
                                                _mm256_packs_epi32(codes[2], codes[3]));
      _mm256_storeu_si256(
          reinterpret_cast<__m256i_u*>(q),
          _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    }
  }
}

int64_t MultiplyAdd(int64_t iterations) {
  constexpr int kChains = 8;
  __m256i sum[kChains];
#pragma GCC unroll 8
  for (int i = 0; i < kChains; ++i) sum[i] = _mm256_set1_epi32(i);
  const __m256i bytes = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
#pragma GCC unroll 8
    for (int i = 0; i < kChains; ++i) {
      __m256i pairs = _mm256_maddubs_epi16(bytes, bytes);
      asm volatile("" : "+x"(pairs));  // keeps every product
      sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, ones));
      asm volatile("" : "+x"(sum[i]));
    }
  }
  return iterations * kChains * 32;
}

template <bool kIsInt4>
constexpr LinearKernel KernelOf() {
  using T = Tile<kIsInt4>;
  return {.max_block_rows = T::kMaxRows,
          .unit_inputs = kCodeUnitInputs,
          .panel_bytes = T::kPanelBytes,
          .weight_bytes = T::kWeightBytes,
          .pack = PackCodes,
          .product = Product<T>,
          .multiply_add = MultiplyAdd};
}

}  // namespace

const CodedKernels kLinearCodesAvx2 = {.int8 = KernelOf<false>(), .int4 = KernelOf<true>()};

}  // namespace tandem::kernels
