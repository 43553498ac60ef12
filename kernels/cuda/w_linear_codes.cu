// Linear layers for 1 to 128 rows, int8 and int4 weights; GeGLU fused behind gate and up.
//
//   y[t,n] = sum_k scale[n,k/32] * code[n,k] * x[t,k]                    bf16 or f32
//   y[t,i] = gelu_tanh(gate_i . x[t]) * (up_i . x[t])                    bf16
//
// Shapes    x [rows, in] bf16, codes and scales of w_codes_pack.h; in % 8 == 0. Any number of rows;
//           the prompt class is another kernel's.
// Launch    as w_linear.cu. Codes become bf16 integers in registers, exactly, and enter the matrix
//           instruction as its 16-row operand; a scale meets the f32 sum of its 32 k
//           (w_linear_codes_tile.h). Each lane has the codes of the next 128 k under way
//           while it multiplies, of int4 in the smallest tile 256 k.
// Traffic   with in64 and out16 rounded up to multiples of 64 and 16, reads bits/8 * in64 * out16 B
//           of codes and in64 * out16 / 16 B of scales, once per ceil(rows / (8*columns)) (from L2
//           after the first), and 2*in*rows B of x, once per ceil(out / (16*tiles)) (from L2);
//           writes 2 or 4 B per value. Four lanes ask for the same scales: emulation counts them
//           four times.
// Roofline  memory bound: 8.5 or 4.5 bits per weight. 21504 x 5376 at 4 bits moves 65 MB, 15.1 us
//           at 4.3 TB/s; about 2 of the 3.9 lane-instructions that a weight may take.
// Truth     weight_codes.h and f64 loops in tests/emu/w_linear_codes_test.cc.
#include "kernels/cuda/w_linear_codes.h"
#include "kernels/cuda/w_linear_codes_tile.h"
#include "kernels/cuda/w_linear_pack.h"
#include "kernels/cuda/w_linear_store.h"

namespace tandem::kernels::K_WORLD {

template <int kBits, int kTiles, int kColumns>
__global__ void __launch_bounds__(kLinearThreads)
    WLinearCodesKernel(CodesOperands<kBits> operands, LinearResult result) {
  K_SHARED(float, partials, (LinearTile<kTiles, kColumns>::kPartials));
  const LinearPosition at = PositionOfBlock<kTiles, kColumns>(operands);
  SumSegments<kTiles, kColumns>(operands, at, partials);
  __syncthreads();
  StoreResult<kTiles, kColumns>(partials, at, operands.rows, result);
}

WLinearTile ChooseWLinearCodesTile(int rows, int out, bool geglu) {
  // As ChooseWLinearTile, with fewer columns: decoded weights and scales take registers, and what
  // is read again from L2 is small.
  constexpr int kManyOutputs = 2 * 132 * 32;
  WLinearTile tile;
  tile.columns = rows <= 8 ? 1 : rows <= 16 || geglu ? 2 : 4;
  tile.tiles = geglu || (out >= kManyOutputs && tile.columns < 4) ? 2 : 1;
  return tile;
}

template <int kBits>
static void LaunchCodes(const CodesOperands<kBits>& operands, const LinearResult& result,
                        WLinearTile tile, Stream stream) {
  const LinearVariant<CodesOperands<kBits>> variants[] = {
      {{2, 1}, WLinearCodesKernel<kBits, 2, 1>},  // does everything
      {{1, 1}, WLinearCodesKernel<kBits, 1, 1>},
      {{1, 2}, WLinearCodesKernel<kBits, 1, 2>},
      {{2, 2}, WLinearCodesKernel<kBits, 2, 2>},
      {{1, 4}, WLinearCodesKernel<kBits, 1, 4>}};
  static_assert(sizeof(variants) / sizeof(variants[0]) ==
                sizeof(kWLinearCodesTiles) / sizeof(kWLinearCodesTiles[0]));
  LaunchVariant(variants, tile, operands, result, stream);
}

template <int kBits, typename Args>
static void LaunchCodes(const Args& args, int out, const LinearResult& result, WLinearTile tile,
                        Stream stream) {
  LaunchCodes<kBits>({.x = args.x,
                      .x_stride = args.x_stride,
                      .codes = args.codes,
                      .scales = args.scales,
                      .rows = args.rows,
                      .in = args.in,
                      .out = out},
                     result, tile, stream);
}

void WLinearCodesWithTile(const WLinearCodesArgs& args, WLinearTile tile, Stream stream) {
  const LinearResult result = {
      .y = args.y, .y_f32 = args.y_f32, .stride = args.y_stride, .width = args.out};
  if (args.format == WeightFormat::kInt8) {
    LaunchCodes<8>(args, args.out, result, tile, stream);
  } else {
    LaunchCodes<4>(args, args.out, result, tile, stream);
  }
}

void WLinearCodesGegluWithTile(const WLinearCodesGegluArgs& args, WLinearTile tile, Stream stream) {
  const LinearResult result = {.geglu = args.y, .stride = args.y_stride, .width = args.width};
  if (args.format == WeightFormat::kInt8) {
    LaunchCodes<8>(args, GateUpRows(args.width), result, tile, stream);
  } else {
    LaunchCodes<4>(args, GateUpRows(args.width), result, tile, stream);
  }
}

void WLinearCodes(const WLinearCodesArgs& args, Stream stream) {
  WLinearCodesWithTile(args, ChooseWLinearCodesTile(args.rows, args.out, /*geglu=*/false), stream);
}

void WLinearCodesGeglu(const WLinearCodesGegluArgs& args, Stream stream) {
  WLinearCodesGegluWithTile(
      args, ChooseWLinearCodesTile(args.rows, GateUpRows(args.width), /*geglu=*/true), stream);
}

}  // namespace tandem::kernels::K_WORLD
