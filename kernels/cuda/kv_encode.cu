// Encodes f32 rows into KV blocks, one warp per (row, head).
//
// Maths     StoreKvRow (kv_store.h).
// Launch    grid = ceil(rows*num_heads/8), block = 256.
// Traffic   per row and head: reads 4*dim B of x and 4 B of cells in each lane (one broadcast),
//           writes the row's codes and 2 B of scale.
// Roofline  of no interest: it runs when the server starts.
// Truth     EncodeRowReference (kernels/reference/kv_row_ref.h); tests/emu/kv_encode_test.cc.
#include "kernels/cuda/kv_encode.h"

namespace tandem::kernels::K_WORLD {

constexpr int kEncodeWarps = 8;

template <int kDim>
__global__ void __launch_bounds__(kEncodeWarps* kWarp) EncodeKvRowsKernel(EncodeKvRowsArgs args) {
  constexpr int kValues = kDim / kWarp;
  const int lane = lane_id();
  const int unit = static_cast<int>(blockIdx.x) * kEncodeWarps + warp_id();
  if (unit >= args.rows * args.num_heads) return;
  const int row = unit / args.num_heads, head = unit % args.num_heads;
  const int32_t cell = ld_nc(args.cells + row);
  if (cell < 0) return;

  const float* from = args.x + int64_t{unit} * kDim + lane * kValues;
  float x[kValues];
  K_UNROLL
  for (int v = 0; v < kValues; v += 4) {
    const Vec<float, 4> part = ld_nc(reinterpret_cast<const Vec<float, 4>*>(from + v));
    K_UNROLL
    for (int i = 0; i < 4; ++i) x[v + i] = part[i];
  }
  const KvFormat format = args.store_v ? args.kv.v_format : args.kv.k_format;
  const KvRowStatus status =
      StoreKvRow<kDim>(x, format, KvCellAt(args.kv, cell, head, args.store_v), lane);
  if (lane == 0) {
    NoteKvRow(status, args.store_v ? 1 : 0,
              args.nonfinite == nullptr ? nullptr : args.nonfinite + row, args.counts);
  }
}

bool EncodeKvRowsSupports(int head_dim, KvFormat format) {
  return (head_dim == 256 || head_dim == 512) && format != KvFormat::kF32;
}

void EncodeKvRows(const EncodeKvRowsArgs& args, Stream stream) {
  const int units = args.rows * args.num_heads;
  if (units == 0) return;
  launch(args.head_dim == 256 ? EncodeKvRowsKernel<256> : EncodeKvRowsKernel<512>,
         (units + kEncodeWarps - 1) / kEncodeWarps, kEncodeWarps * kWarp, 0, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
