// Embeddings, per-layer inputs, gelu * mul, rounding, soft-cap.
//
//   Embed      out[t,d] = table[ids[t],d] * scale
//   Ple        n[d] = ctx[d] * ctx_scale;  inverse = (sum_d(n[d]^2) / width + eps)^(-1/2)
//              ctx[d] = (table_row[d] * table_scale + (n[d] * inverse) * norm[d]) * out_scale
//   GeluMul    y = gelu_tanh(a) * b
//   Softcap    x = cap * tanh(x / cap)
//
// Rounding  f32 as on the CPU, the sum of Ple in one fma; once more where the result is bf16.
// Launch    block = 256. Ple: a warp per (row, layer), lane l holds vectors l and l + 32 of 4
//           values. Softcap: a thread per 4 values. The others: a thread per 8 values of a row.
// Order     of the sum of Ple: a lane's values in ascending order, xor butterfly. A function of
//           width alone.
// Traffic   per value: Embed reads 2 B, writes 2 or 4 B; Ple reads 6 B and 4 B of norm (from L1),
//           writes 4 B; GeluMul reads 8 B, writes 2 B; RoundRows reads 4 B, writes 2 B; Softcap
//           reads 4 B, writes 4 B. Besides 4 B of ids per thread in Embed.
// Roofline  memory bound: in decode a launch; Softcap of 128 rows of 262144 moves 268 MB, 62 us at
//           4.3 TB/s. Ple of 2048 rows of 30 layers of 256 moves 157 MB, 37 us.
// Truth     kernels/reference/row_ops_ref.h; tests/emu/row_ops_test.cc.
#include "kernels/cuda/gelu.h"
#include "kernels/cuda/row_ops.h"

namespace tandem::kernels::K_WORLD {

constexpr int kRowOpThreads = 256;
constexpr int kRowOpWarps = kRowOpThreads / kWarp;
constexpr int kRowOpVec = 8;  // bf16 in one 16-byte access
constexpr int kPleVectors = 2;
using F32x4 = Vec<float, 4>;

// The eight values of a row that a thread makes.
struct RowPiece {
  int row = 0;
  int column = 0;
  bool valid = false;
};

K_DEVICE RowPiece PieceOfThread(int rows, int dim) {
  const int pieces = dim / kRowOpVec;
  const int64_t at = int64_t{blockIdx.x} * kRowOpThreads + threadIdx.x;
  RowPiece piece;
  piece.valid = at < int64_t{rows} * pieces;
  if (piece.valid) {
    piece.row = static_cast<int>(at) / pieces;
    piece.column = static_cast<int>(at) % pieces * kRowOpVec;
  }
  return piece;
}

K_DEVICE void LoadEight(const float* from, float (&x)[kRowOpVec]) {
  K_UNROLL
  for (int v = 0; v < kRowOpVec; v += 4) {
    const F32x4 part = ld_nc(reinterpret_cast<const F32x4*>(from + v));
    K_UNROLL
    for (int i = 0; i < 4; ++i) x[v + i] = part[i];
  }
}

K_DEVICE void StoreEight(const float (&x)[kRowOpVec], bf16* to) {
  Vec<uint32_t, 4> words;
  K_UNROLL
  for (int i = 0; i < 4; ++i) words[i] = pack_bf16x2(x[2 * i], x[2 * i + 1]);
  st(reinterpret_cast<Vec<uint32_t, 4>*>(to), words);
}

__global__ void __launch_bounds__(kRowOpThreads) EmbedKernel(EmbedArgs args) {
  const RowPiece piece = PieceOfThread(args.rows, args.dim);
  if (!piece.valid) return;
  const int64_t id = ld_nc(args.ids + piece.row);
  const Bf16x8 from =
      ld_nc(reinterpret_cast<const Bf16x8*>(args.table + id * args.dim + piece.column));
  float x[kRowOpVec];
  K_UNROLL
  for (int i = 0; i < kRowOpVec; ++i) x[i] = mul_rn(bf16_to_f32(from[i]), args.scale);
  const int64_t to = piece.row * args.out_stride + piece.column;
  if (args.out != nullptr) {
    StoreEight(x, args.out + to);
    return;
  }
  K_UNROLL
  for (int v = 0; v < kRowOpVec; v += 4) {
    const F32x4 part = {x[v], x[v + 1], x[v + 2], x[v + 3]};
    st(reinterpret_cast<F32x4*>(args.out_f32 + to + v), part);
  }
}

__global__ void __launch_bounds__(kRowOpThreads) PleKernel(PleArgs args) {
  const int unit = static_cast<int>(blockIdx.x) * kRowOpWarps + warp_id();
  if (unit >= args.rows * args.layers) return;
  const int64_t first = int64_t{unit} * args.width;
  F32x4 ctx[kPleVectors];
  float sum = 0.0f;
  K_UNROLL
  for (int v = 0; v < kPleVectors; ++v) {
    const int d = (lane_id() + v * kWarp) * 4;
    ctx[v] = {};
    if (d < args.width) ctx[v] = ld(reinterpret_cast<const F32x4*>(args.ctx + first + d));
    K_UNROLL
    for (int i = 0; i < 4; ++i) {
      ctx[v][i] = mul_rn(ctx[v][i], args.ctx_scale);
      sum = fma_rn(ctx[v][i], ctx[v][i], sum);
    }
  }
  const float mean = div_rn(warp_sum(sum), static_cast<float>(args.width));
  const float inverse = div_rn(1.0f, sqrt_rn(add_rn(mean, args.eps)));
  K_UNROLL
  for (int v = 0; v < kPleVectors; ++v) {
    const int d = (lane_id() + v * kWarp) * 4;
    if (d < args.width) {
      const F32x4 norm = ld_nc(reinterpret_cast<const F32x4*>(args.norm + d));
      const auto token =
          ld_nc(reinterpret_cast<const Vec<bf16, 4>*>(args.rows_of_table + first + d));
      F32x4 y;
      K_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float normed = mul_rn(mul_rn(ctx[v][i], inverse), norm[i]);
        y[i] = mul_rn(fma_rn(bf16_to_f32(token[i]), args.table_scale, normed), args.out_scale);
      }
      st(reinterpret_cast<F32x4*>(args.ctx + first + d), y);
    }
  }
}

__global__ void __launch_bounds__(kRowOpThreads) GeluMulKernel(GeluMulArgs args) {
  const RowPiece piece = PieceOfThread(args.rows, args.dim);
  if (!piece.valid) return;
  float a[kRowOpVec], b[kRowOpVec];
  LoadEight(args.a + piece.row * args.a_stride + piece.column, a);
  LoadEight(args.b + piece.row * args.b_stride + piece.column, b);
  K_UNROLL
  for (int i = 0; i < kRowOpVec; ++i) a[i] = mul_rn(gelu_tanh(a[i]), b[i]);
  StoreEight(a, args.y + piece.row * args.y_stride + piece.column);
}

__global__ void __launch_bounds__(kRowOpThreads) RoundRowsKernel(RoundRowsArgs args) {
  const RowPiece piece = PieceOfThread(args.rows, args.dim);
  if (!piece.valid) return;
  float x[kRowOpVec];
  LoadEight(args.x + piece.row * args.x_stride + piece.column, x);
  StoreEight(x, args.y + piece.row * args.y_stride + piece.column);
}

K_DEVICE float Capped(float x, float cap) { return mul_rn(tanh_acc(div_rn(x, cap)), cap); }

__global__ void __launch_bounds__(kRowOpThreads) SoftcapKernel(SoftcapArgs args) {
  const int64_t first = (int64_t{blockIdx.x} * kRowOpThreads + threadIdx.x) * 4;
  if (first + 4 <= args.count) {
    F32x4* const at = reinterpret_cast<F32x4*>(args.x + first);
    F32x4 x = ld(at);
    K_UNROLL
    for (int i = 0; i < 4; ++i) x[i] = Capped(x[i], args.cap);
    st(at, x);
  } else {
    for (int64_t i = first; i < args.count; ++i) {
      st(args.x + i, Capped(ld(args.x + i), args.cap));
    }
  }
}

static int PieceBlocks(int rows, int dim) {
  return static_cast<int>((int64_t{rows} * (dim / kRowOpVec) + kRowOpThreads - 1) / kRowOpThreads);
}

void Embed(const EmbedArgs& args, Stream stream) {
  if (args.rows == 0) return;
  launch(EmbedKernel, PieceBlocks(args.rows, args.dim), kRowOpThreads, 0, stream, args);
}

bool PleSupports(int width) {
  return width > 0 && width % 8 == 0 && width <= kPleVectors * kWarp * 4;
}

void Ple(const PleArgs& args, Stream stream) {
  if (args.rows == 0) return;
  launch(PleKernel, (args.rows * args.layers + kRowOpWarps - 1) / kRowOpWarps, kRowOpThreads, 0,
         stream, args);
}

void GeluMul(const GeluMulArgs& args, Stream stream) {
  if (args.rows == 0) return;
  launch(GeluMulKernel, PieceBlocks(args.rows, args.dim), kRowOpThreads, 0, stream, args);
}

void RoundRows(const RoundRowsArgs& args, Stream stream) {
  if (args.rows == 0) return;
  launch(RoundRowsKernel, PieceBlocks(args.rows, args.dim), kRowOpThreads, 0, stream, args);
}

void Softcap(const SoftcapArgs& args, Stream stream) {
  if (args.count == 0) return;
  constexpr int64_t kBlockValues = kRowOpThreads * 4;
  launch(SoftcapKernel, static_cast<unsigned>((args.count + kBlockValues - 1) / kBlockValues),
         kRowOpThreads, 0, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
