// Linear layers for prompt rows, bf16 weights; GeGLU fused behind gate and up.
//
//   y[t,n] = sum_k w[n,k] * x[t,k]                                       bf16 or f32
//   y[t,i] = gelu_tanh(sum_k gate[i,k] * x[t,k]) * sum_k up[i,k] * x[t,k]      bf16
//
// Shapes    x [rows, in] bf16, w [out, in] bf16 row-major; in % 8 == 0.
// Launch    a block of 128 threads (64 for 16 rows) makes a tile of [rows, outputs], grid =
//           ceil(rows / tile rows) * ceil(out / tile outputs). Operands pass through a ring in
//           shared memory, filled by asynchronous copies (p_linear_tile.h has the order of sums).
//           The largest tile: 64 x 64 values of a warp, two blocks per multiprocessor.
// Traffic   reads 2*in*rows B of x, once per tile of outputs, and 2*in*out B of weights, once per
//           tile of rows (from L2 where blocks run side by side); writes 2 or 4 B per value.
// Roofline  compute bound from about 200 rows on: 2*rows*in*out FLOP. 8192 x 5376 x 21504 is 1.9
//           TFLOP, 2.4 ms at 790 TFLOP/s; mma.sync reaches some 60 % of that on sm_90, less the
//           rounded additions (one for every two matrix instructions' worth of a value).
// Truth     LinearReference, LinearGegluReference (kernels/reference/linear_ref.h);
//           tests/emu/p_linear_test.cc.
#include "kernels/cuda/gelu.h"
#include "kernels/cuda/p_linear.h"
#include "kernels/cuda/p_linear_tile.h"
#include "kernels/cuda/w_linear_pack.h"

namespace tandem::kernels::K_WORLD {

// One of the two is not null.
struct PLinearResult {
  bf16* y = nullptr;  // [rows, stride]
  float* y_f32 = nullptr;
  int64_t stride = 0;
  int width = 0;  // values of a row
};

// Two neighbouring values of a row, or the first alone. `paired`: both lie in one aligned word.
K_DEVICE void StorePair(const PLinearResult& result, int64_t to, bool both, bool paired,
                        float first, float second) {
  if (result.y != nullptr) {
    const Vec<bf16, 2> pair = {f32_to_bf16_rn(first), f32_to_bf16_rn(second)};
    if (both && paired) {
      st(reinterpret_cast<Vec<bf16, 2>*>(result.y + to), pair);
    } else {
      st(result.y + to, pair[0]);
      if (both) st(result.y + to + 1, pair[1]);
    }
  } else {
    const Vec<float, 2> pair = {first, second};
    if (both && paired) {
      st(reinterpret_cast<Vec<float, 2>*>(result.y_f32 + to), pair);
    } else {
      st(result.y_f32 + to, pair[0]);
      if (both) st(result.y_f32 + to + 1, pair[1]);
    }
  }
}

template <int kRows, int kOutputs, bool kGeglu>
__global__ void __launch_bounds__(PromptTile<kRows, kOutputs>::kThreads,
                                  PromptTile<kRows, kOutputs>::kBlocks)
    PLinearKernel(PromptOperands operands, PLinearResult result) {
  using Tile = PromptTile<kRows, kOutputs>;
  K_DYN_SMEM(bf16, shared);
  const PromptPosition at = PositionOfPromptBlock<Tile>(operands);
  PromptSums<Tile> sum = {};
  SumPromptGroups<Tile>(operands, at, shared, sum);

  const PromptPosition part = PositionInPromptTile<Tile>();
  const int first_row = at.first_row + part.first_row + lane_id() / 4;
  const int first_output = at.first_output + part.first_output;
  const int pair = lane_id() % 4 * 2;
  const bool paired = result.stride % 2 == 0;
  K_UNROLL
  for (int i = 0; i < Tile::kRowTiles; ++i) {
    K_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + 16 * i + 8 * half;
      const int64_t to = row * result.stride;
      if constexpr (kGeglu) {
        // Of every four output tiles two are gate rows and two the up rows that belong to them.
        static_assert(Tile::kOutputTiles % 4 == 0);
        K_UNROLL
        for (int four = 0; four < Tile::kOutputTiles; four += 4) {
          K_UNROLL
          for (int j = four; j < four + 2; ++j) {
            const int n = first_output / 2 + 4 * four + 8 * (j - four) + pair;
            float y[2];
            K_UNROLL
            for (int e = 0; e < 2; ++e) {
              y[e] = mul_rn(gelu_tanh(sum[i][j][2 * half + e]), sum[i][j + 2][2 * half + e]);
            }
            if (row < operands.rows && n < result.width) {
              StorePair(result, to + n, n + 1 < result.width, paired, y[0], y[1]);
            }
          }
        }
      } else {
        K_UNROLL
        for (int j = 0; j < Tile::kOutputTiles; ++j) {
          const int n = first_output + 8 * j + pair;
          if (row < operands.rows && n < result.width) {
            StorePair(result, to + n, n + 1 < result.width, paired, sum[i][j][2 * half],
                      sum[i][j][2 * half + 1]);
          }
        }
      }
    }
  }
}

bool PLinearSupports(int in) { return in > 0 && in % kPromptChunk == 0; }

PLinearTile ChoosePLinearTile(int rows, int out) {
  // The largest tile moves the fewest bytes per product, where enough blocks remain for every
  // multiprocessor to have one (an H200 has 132).
  constexpr int kManyBlocks = 132;
  if (rows <= 16) return {16, 64};
  if (rows <= 32) return {32, 64};
  const int64_t large_blocks = int64_t{(rows + 127) / 128} * ((out + 127) / 128);
  return rows > 64 && large_blocks >= kManyBlocks ? PLinearTile{128, 128} : PLinearTile{64, 64};
}

struct PLinearVariant {
  PLinearTile tile;
  int threads;
  int shared_bytes;
  void (*kernel)(PromptOperands, PLinearResult);
};

template <int kRows, int kOutputs, bool kGeglu>
static PLinearVariant VariantOf() {
  using Tile = PromptTile<kRows, kOutputs>;
  return {{kRows, kOutputs},
          Tile::kThreads,
          Tile::kSharedBytes,
          PLinearKernel<kRows, kOutputs, kGeglu>};
}

template <bool kGeglu>
static void LaunchPLinear(const PromptOperands& operands, const PLinearResult& result,
                          PLinearTile tile, Stream stream) {
  const PLinearVariant variants[] = {VariantOf<16, 64, kGeglu>(), VariantOf<32, 64, kGeglu>(),
                                     VariantOf<64, 64, kGeglu>(), VariantOf<128, 128, kGeglu>()};
  static_assert(sizeof(variants) / sizeof(variants[0]) ==
                sizeof(kPLinearTiles) / sizeof(kPLinearTiles[0]));
  if (operands.rows == 0) return;
  const PLinearVariant* chosen = &variants[0];
  for (const PLinearVariant& v : variants) {
    if (v.tile.rows == tile.rows && v.tile.outputs == tile.outputs) chosen = &v;
  }
  launch(chosen->kernel, PromptBlocks(operands, chosen->tile.rows, chosen->tile.outputs),
         chosen->threads, chosen->shared_bytes, stream, operands, result);
}

void PLinearWithTile(const WLinearArgs& args, PLinearTile tile, Stream stream) {
  LaunchPLinear</*kGeglu=*/false>(
      {.x = args.x,
       .x_stride = args.x_stride,
       .w = args.w,
       .rows = args.rows,
       .in = args.in,
       .out = args.out},
      {.y = args.y, .y_f32 = args.y_f32, .stride = args.y_stride, .width = args.out}, tile, stream);
}

void PLinearGegluWithTile(const WLinearGegluArgs& args, PLinearTile tile, Stream stream) {
  LaunchPLinear</*kGeglu=*/true>({.x = args.x,
                                  .x_stride = args.x_stride,
                                  .w = args.w,
                                  .rows = args.rows,
                                  .in = args.in,
                                  .out = GateUpRows(args.width)},
                                 {.y = args.y, .stride = args.y_stride, .width = args.width}, tile,
                                 stream);
}

void PLinear(const WLinearArgs& args, Stream stream) {
  PLinearWithTile(args, ChoosePLinearTile(args.rows, args.out), stream);
}

void PLinearGeglu(const WLinearGegluArgs& args, Stream stream) {
  PLinearGegluWithTile(args, ChoosePLinearTile(args.rows, GateUpRows(args.width)), stream);
}

}  // namespace tandem::kernels::K_WORLD
