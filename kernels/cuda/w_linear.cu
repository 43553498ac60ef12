// Linear layers for 1 to 128 rows, bf16 weights; GeGLU fused behind gate and up.
//
//   y[t,n] = sum_k w[n,k] * x[t,k]                                       bf16 or f32
//   y[t,i] = gelu_tanh(sum_k gate[i,k] * x[t,k]) * sum_k up[i,k] * x[t,k]      bf16
//
// Shapes    x [rows, in] bf16, w [out, in] bf16 row-major; in % 8 == 0. Any number of rows; the
//           prompt class is another kernel's.
// Launch    block = 256, one warp per segment of k (w_linear_tile.h has the order); grid =
//           ceil(rows / (8*columns)) * ceil(out / (16*tiles)). Weights are the matrix instruction's
//           16-row operand, so that up to 8 rows cost one. Each lane reads 16 B of a row of
//           weights at a time, the next 64 k while it multiplies.
// Traffic   reads 2*in*out B of weights, once per ceil(rows / (8*columns)) (from L2 after the
//           first), and 2*in*rows B of x, once per ceil(out / (16*tiles)) (from L2); writes 2 or 4
//           B per value.
// Roofline  memory bound: 2*rows FLOP per 2 B of weights. 21504 x 5376 moves 231 MB, 53.8 us at
//           4.3 TB/s.
// Truth     LinearReference, LinearGegluReference (kernels/reference/linear_ref.h);
//           tests/emu/w_linear_test.cc.
#include "kernels/cuda/w_linear.h"
#include "kernels/cuda/w_linear_pack.h"
#include "kernels/cuda/w_linear_store.h"
#include "kernels/cuda/w_linear_tile.h"

namespace tandem::kernels::K_WORLD {

// Blocks on a multiprocessor that registers must suffice for; 0: as ptxas likes it. Left to itself
// it spills 8 bytes of one tile on sm_80 and sm_86 to have four.
template <int kTiles, int kColumns>
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kLinearMinBlocks = kTiles == 1 && kColumns == 2 ? 3 : 0;
#else
constexpr int kLinearMinBlocks = 0;
#endif

template <int kTiles, int kColumns>
__global__ void __launch_bounds__(kLinearThreads, (kLinearMinBlocks<kTiles, kColumns>))
    WLinearKernel(LinearOperands operands, LinearResult result) {
  K_SHARED(float, partials, (LinearTile<kTiles, kColumns>::kPartials));
  const LinearPosition at = PositionOfBlock<kTiles, kColumns>(operands);
  SumSegments<kTiles, kColumns>(operands, at, partials);
  __syncthreads();
  StoreResult<kTiles, kColumns>(partials, at, operands.rows, result);
}

bool WLinearSupports(int in) { return in > 0 && in % 8 == 0; }

WLinearTile ChooseWLinearTile(int rows, int out, bool geglu) {
  // Two tiles halve the reads of x; worth it where enough blocks remain for every multiprocessor to
  // have two (an H200 has 132).
  constexpr int kManyOutputs = 2 * 132 * 32;
  WLinearTile tile;
  tile.columns = rows <= 8 ? 1 : rows <= 16 ? 2 : rows <= 32 || geglu ? 4 : 8;
  tile.tiles = geglu || (out >= kManyOutputs && tile.columns < 8) ? 2 : 1;
  return tile;
}

static void LaunchWLinear(const LinearOperands& operands, const LinearResult& result,
                          WLinearTile tile, Stream stream) {
  const LinearVariant<LinearOperands> variants[] = {
      {{2, 1}, WLinearKernel<2, 1>},  // does everything
      {{1, 1}, WLinearKernel<1, 1>}, {{1, 2}, WLinearKernel<1, 2>}, {{2, 2}, WLinearKernel<2, 2>},
      {{1, 4}, WLinearKernel<1, 4>}, {{2, 4}, WLinearKernel<2, 4>}, {{1, 8}, WLinearKernel<1, 8>}};
  static_assert(sizeof(variants) / sizeof(variants[0]) ==
                sizeof(kWLinearTiles) / sizeof(kWLinearTiles[0]));
  LaunchVariant(variants, tile, operands, result, stream);
}

void WLinearWithTile(const WLinearArgs& args, WLinearTile tile, Stream stream) {
  LaunchWLinear({.x = args.x,
                 .x_stride = args.x_stride,
                 .w = args.w,
                 .rows = args.rows,
                 .in = args.in,
                 .out = args.out},
                {.y = args.y, .y_f32 = args.y_f32, .stride = args.y_stride, .width = args.out},
                tile, stream);
}

void WLinearGegluWithTile(const WLinearGegluArgs& args, WLinearTile tile, Stream stream) {
  LaunchWLinear({.x = args.x,
                 .x_stride = args.x_stride,
                 .w = args.w,
                 .rows = args.rows,
                 .in = args.in,
                 .out = GateUpRows(args.width)},
                {.geglu = args.y, .stride = args.y_stride, .width = args.width}, tile, stream);
}

void WLinear(const WLinearArgs& args, Stream stream) {
  WLinearWithTile(args, ChooseWLinearTile(args.rows, args.out, /*geglu=*/false), stream);
}

void WLinearGeglu(const WLinearGegluArgs& args, Stream stream) {
  WLinearGegluWithTile(args, ChooseWLinearTile(args.rows, GateUpRows(args.width), /*geglu=*/true),
                       stream);
}

}  // namespace tandem::kernels::K_WORLD
