// Products with bf16 operands by vdpbf16ps: 16 outputs by one pair of inputs per instruction.
//
// Tile      R rows by N tiles of 16 outputs in R*N registers, at most 28; per pair N weight lines
//           and R broadcasts of 4 bytes meet in R*N instructions. At two instructions and two loads
//           a cycle, R = 14 and N = 2 wait for the instructions, not for the 16 loads.
// Traffic   2 bytes of weights per output and input; memory bound up to about 12 rows.
// Numbers   x is rounded to bf16 (to nearest even) when packed; subnormal operands count as 0.
// Truth     LinearReference with rounded x; tests/kernels/linear_test.cc.
#include <immintrin.h>

#include "kernels/cpu/linear_finish_avx512.h"
#include "kernels/cpu/linear_kernel.h"
#include "kernels/cpu/linear_loop.h"

namespace tandem::kernels {
namespace {

struct Tile {
  static constexpr int kMaxRows = 14;
  static constexpr size_t kPanelBytes = 4;
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
    const int* x = reinterpret_cast<const int*>(args.panel);
    const std::byte* w = args.weights;
    const std::byte* ahead = args.ahead;
    const auto run = [&](int pairs) __attribute__((always_inline)) {
      for (int p = 0; p < pairs; ++p) {
        __m512bh line[N];
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) {
          _mm_prefetch(ahead + n * args.tile_bytes, _MM_HINT_T0);
          line[n] = (__m512bh)_mm512_load_si512(w + n * args.tile_bytes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const __m512bh pair = (__m512bh)_mm512_set1_epi32(x[r]);
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) sum[r][n] = _mm512_dpbf16_ps(sum[r][n], line[n], pair);
        }
        x += R;
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
      for (int n = 0; n < N; ++n)
        _mm512_storeu_ps(args.partial + r * kPartialRow + n * 16, sum[r][n]);
    }
  }

  static void Finish(const FinishArgs& args) { FinishAvx512(args); }
};

// Lanes first .. first + 15 below `end`.
__mmask16 LanesBelow(int first, int end) {
  const int count = end - first;
  return count >= 16 ? 0xffff : count > 0 ? static_cast<__mmask16>((1u << count) - 1) : 0;
}

// Row r of `m` becomes lane r of every row.
void Transpose(__m512i (&m)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(m[i], m[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(m[i], m[i + 1]);
  }
  // m[4 q + j]: in each 128-bit part p, column 4 p + j of rows 4 q .. 4 q + 3.
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    m[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    m[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    m[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    m[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i low01 = _mm512_shuffle_i32x4(m[j], m[j + 4], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(m[j], m[j + 4], 0xee);
    const __m512i low23 = _mm512_shuffle_i32x4(m[j + 8], m[j + 12], 0x44);
    const __m512i high23 = _mm512_shuffle_i32x4(m[j + 8], m[j + 12], 0xee);
    t[j] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    t[j + 4] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    t[j + 8] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    t[j + 12] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) m[i] = t[i];
}

void Pack(const PackTask& task) {
  int* panel = reinterpret_cast<int*>(task.panel);
  const __mmask16 rows = LanesBelow(0, task.rows);
  for (int pair = task.unit_begin; pair < task.unit_end; pair += 16) {
    const __mmask16 low = LanesBelow(2 * pair, task.in);
    const __mmask16 high = LanesBelow(2 * pair + 16, task.in);
    __m512i pairs[16];  // [row][pair], then [pair][row]
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
      if (r < task.rows) {
        const float* x =
            task.x + (task.row_ids != nullptr ? task.row_ids[r] : r) * task.x_stride + 2 * pair;
        pairs[r] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, x + 16),
                                                _mm512_maskz_loadu_ps(low, x));
      } else {
        pairs[r] = _mm512_setzero_si512();
      }
    }
    const int count = task.unit_end - pair < 16 ? task.unit_end - pair : 16;
    if (task.rows == 1) {
      _mm512_mask_storeu_epi32(panel + pair, LanesBelow(0, count), pairs[0]);
      continue;
    }
    Transpose(pairs);
    int* column = panel + pair * task.rows;
    for (int p = 0; p < count; ++p)
      _mm512_mask_storeu_epi32(column + p * task.rows, rows, pairs[p]);
  }
}

int64_t MultiplyAdd(int64_t iterations) {
  constexpr int kChains = 24;
  __m512 sum[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512bh half = (__m512bh)_mm512_set1_epi32(0x3f003f00);  // pairs of 0.5
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) {
      sum[i] = _mm512_dpbf16_ps(sum[i], half, half);
      asm volatile("" : "+v"(sum[i]));  // keeps every product
    }
  }
  return iterations * kChains * 32;
}

}  // namespace

const LinearKernel kLinearAvx512Bf16 = {.max_block_rows = Tile::kMaxRows,
                                        .unit_inputs = 2,
                                        .panel_bytes = Tile::kPanelBytes,
                                        .weight_bytes = Tile::kWeightBytes,
                                        .pack = Pack,
                                        .product = Product<Tile>,
                                        .multiply_add = MultiplyAdd};

}  // namespace tandem::kernels
