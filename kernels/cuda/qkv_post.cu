// q, k and v behind their projection, one warp per (row, head).
//
//   n = x * (sum(x^2) / dim + eps)^(-1/2) * weight                       v: weight 1
//   y[j]         = n[j] cos[j] - n[j + dim/2] sin[j]                     j < live; q and k alone
//   y[j + dim/2] = n[j + dim/2] cos[j] + n[j] sin[j]
//   q: R y where K is rotated, else y, rounded to its operand type;  k, v: stored (kv_store.h)
//
// In place  q of 16 bits takes the first half of its head's own f32: the warp has read all of the
//           head before any lane writes. k and v columns are read alone, so the two warps that
//           read one k head where V has no columns do not meet.
// Lanes     lane l holds values l*n .. l*n + n - 1, n = dim/32; the rope partner is in lane l ^ 16.
// Rounding  f32 throughout and once at the end (gemma4.md 2.10): the encoder meets f32.
// Order     of the sum: a lane's values in ascending order, xor butterfly. A function of dim alone.
// Launch    grid = ceil(rows*(num_q_heads + 2*num_kv_heads)/8), block = 256; no shared memory.
// Traffic   per row: reads 4*dim B of x for each q, k and v; for each q and k 4*dim B of weight and
//           16*live B of cos and sin as well, which stay in L1; for each k and v 4 B of cells in
//           every lane (one broadcast). Writes 2*dim B for each q, codes and 2 B of scale for each
//           k and v.
// Roofline  40 (dim 256) or 80 (512) shuffles per rotated row; bound by latency in decode, by
//           memory in prefill, where it is 1-2 % of the time.
// Truth     QkvPostReference (kernels/reference/qkv_post_ref.h); tests/emu/qkv_post_test.cc.
#include "kernels/cuda/qkv_post.h"

namespace tandem::kernels::K_WORLD {

constexpr int kQkvWarps = 8;

// The values of a row from `from` on.
template <int kValues>
K_DEVICE void LoadValues(const float* from, float (&x)[kValues]) {
  K_UNROLL
  for (int v = 0; v < kValues; v += 4) {
    const Vec<float, 4> part = ld(reinterpret_cast<const Vec<float, 4>*>(from + v));
    K_UNROLL
    for (int i = 0; i < 4; ++i) x[v + i] = part[i];
  }
}

// x = RmsNorm(x; weight); a null weight is 1.
template <int kDim>
K_DEVICE void NormHead(float (&x)[kDim / kWarp], const float* weight, float eps, int lane) {
  constexpr int kValues = kDim / kWarp;
  float sum = 0.0f;
  K_UNROLL
  for (int i = 0; i < kValues; ++i) sum = fma_rn(x[i], x[i], sum);
  sum = warp_sum(sum);
  const float inverse = div_rn(1.0f, sqrt_rn(add_rn(mul_rn(sum, 1.0f / kDim), eps)));
  K_UNROLL
  for (int i = 0; i < kValues; ++i) x[i] = mul_rn(x[i], inverse);
  if (weight == nullptr) return;
  K_UNROLL
  for (int v = 0; v < kValues; v += 4) {
    const auto scale = ld_nc(reinterpret_cast<const Vec<float, 4>*>(weight + lane * kValues + v));
    K_UNROLL
    for (int i = 0; i < 4; ++i) x[v + i] = mul_rn(x[v + i], scale[i]);
  }
}

// Rope with the row's cos and sin [live].
template <int kDim>
K_DEVICE void RopeHead(float (&x)[kDim / kWarp], const float* cos, const float* sin, int live,
                       int lane) {
  constexpr int kValues = kDim / kWarp;
  const bool lower = lane < kWarp / 2;
  const int first = lane % (kWarp / 2) * kValues;  // of this lane's pairs: all are roped or none
  K_UNROLL
  for (int v = 0; v < kValues; v += 4) {
    float other[4];
    K_UNROLL
    for (int i = 0; i < 4; ++i) other[i] = __shfl_xor_sync(kFullMask, x[v + i], kWarp / 2);
    if (first < live) {
      const auto c = ld_nc(reinterpret_cast<const Vec<float, 4>*>(cos + first + v));
      const auto s = ld_nc(reinterpret_cast<const Vec<float, 4>*>(sin + first + v));
      K_UNROLL
      for (int i = 0; i < 4; ++i) {
        x[v + i] = fma_rn(other[i], lower ? -s[i] : s[i], mul_rn(x[v + i], c[i]));
      }
    }
  }
}

template <int kDim>
__global__ void __launch_bounds__(kQkvWarps* kWarp) QkvPostKernel(QkvPostArgs args) {
  constexpr int kValues = kDim / kWarp;
  const int lane = lane_id();
  const int heads = args.num_q_heads + 2 * args.num_kv_heads;
  const int unit = static_cast<int>(blockIdx.x) * kQkvWarps + warp_id();
  if (unit >= args.rows * heads) return;
  const int row = unit / heads, head = unit % heads;
  const bool is_q = head < args.num_q_heads;
  const bool is_v = head >= args.num_q_heads + args.num_kv_heads;
  int32_t cell = 0;
  if (!is_q) {
    cell = ld_nc(args.cells + row);
    if (cell < 0) return;
  }

  const int column = is_v && !args.has_v ? head - args.num_kv_heads : head;
  float* const x_row = args.qkv + row * args.stride;
  float x[kValues];
  LoadValues(x_row + column * kDim + lane * kValues, x);
  NormHead<kDim>(x, is_q ? args.q_norm : is_v ? nullptr : args.k_norm, args.eps, lane);
  if (!is_v) {
    const int64_t angles = int64_t{row} * args.live;
    RopeHead<kDim>(x, args.cos + angles, args.sin + angles, args.live, lane);
  }

  if (is_q) {
    if (KvHasScale(args.kv.k_format)) {
      FlipSigns<kDim>(x, lane);
      Hadamard<kDim>(x, lane);
      K_UNROLL
      for (int i = 0; i < kValues; ++i) x[i] = mul_rn(x[i], kRotationScale<kDim>);
    }
    __syncwarp();  // every lane has read what another one overwrites
    StoreHalves(x, args.kv.k_format == KvFormat::kBf16,
                reinterpret_cast<uint16_t*>(x_row + head * kDim) + lane * kValues);
    return;
  }
  const int kv_head = head - args.num_q_heads - (is_v ? args.num_kv_heads : 0);
  const KvFormat format = is_v ? args.kv.v_format : args.kv.k_format;
  const KvRowStatus status =
      StoreKvRow<kDim>(x, format, KvCellAt(args.kv, cell, kv_head, is_v), lane);
  if (lane == 0) {
    NoteKvRow(status, is_v ? 1 : 0, args.nonfinite == nullptr ? nullptr : args.nonfinite + row,
              args.counts);
  }
}

bool QkvPostSupports(int head_dim, int live, KvFormat k_format, KvFormat v_format) {
  return (head_dim == 256 || head_dim == 512) && live >= 0 && live <= head_dim / 2 &&
         live % 16 == 0 && k_format != KvFormat::kF32 && v_format != KvFormat::kF32;
}

void QkvPost(const QkvPostArgs& args, Stream stream) {
  const int units = args.rows * (args.num_q_heads + 2 * args.num_kv_heads);
  if (units == 0) return;
  launch(args.head_dim == 256 ? QkvPostKernel<256> : QkvPostKernel<512>,
         (units + kQkvWarps - 1) / kQkvWarps, kQkvWarps * kWarp, 0, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
