// Rows gathered by an index, elsewhere or in place.
//
// Launch    GatherRows: a thread per piece (16 B, or 4 B where sizes are no multiples of 16) of a
//           row, block = 256. CompactRows: a thread owns a column of pieces and takes the rows in
//           order, kCompactRows at a time, all loaded before the first is stored: row i is written
//           when every row up to index[i] >= i that anyone still needs has been read. block = 64.
// Traffic   per row: reads row_bytes and 4 B of index per thread (one broadcast), writes row_bytes.
// Roofline  memory bound: 128 rows of 5376 f32 move 5.5 MB, 1.3 us: a launch. CompactRows is bound
//           by latency, about 1 us per kCompactRows rows.
// Truth     tests/emu/move_rows_test.cc.
#include "kernels/cuda/move_rows.h"

namespace tandem::kernels::K_WORLD {

constexpr int kGatherThreads = 256;
constexpr int kCompactThreads = 64;
constexpr int kCompactRows = 8;

template <typename Piece>
K_DEVICE const Piece* PieceAt(const void* rows, int64_t stride, int64_t row, int piece) {
  return reinterpret_cast<const Piece*>(static_cast<const std::byte*>(rows) + row * stride) + piece;
}
template <typename Piece>
K_DEVICE Piece* PieceAt(void* rows, int64_t stride, int64_t row, int piece) {
  return reinterpret_cast<Piece*>(static_cast<std::byte*>(rows) + row * stride) + piece;
}

template <typename Piece>
__global__ void __launch_bounds__(kGatherThreads) GatherRowsKernel(GatherRowsArgs args) {
  const int pieces = static_cast<int>(args.row_bytes / static_cast<int64_t>(sizeof(Piece)));
  const int64_t at = int64_t{blockIdx.x} * kGatherThreads + threadIdx.x;
  if (at >= int64_t{args.rows} * pieces) return;
  const int row = static_cast<int>(at) / pieces, piece = static_cast<int>(at) % pieces;
  const int32_t from = ld_nc(args.index + row);
  if (from < 0) return;
  st(PieceAt<Piece>(args.dst, args.dst_stride, row, piece),
     ld_nc(PieceAt<Piece>(args.src, args.src_stride, from, piece)));
}

template <typename Piece>
__global__ void __launch_bounds__(kCompactThreads) CompactRowsKernel(CompactRowsArgs args) {
  const int pieces = static_cast<int>(args.row_bytes / static_cast<int64_t>(sizeof(Piece)));
  const int piece = static_cast<int>(blockIdx.x) * kCompactThreads + static_cast<int>(threadIdx.x);
  if (piece >= pieces) return;
  for (int first = 0; first < args.rows; first += kCompactRows) {
    Piece held[kCompactRows];
    K_UNROLL
    for (int i = 0; i < kCompactRows; ++i) {
      if (first + i < args.rows) {
        const int32_t from = ld_nc(args.index + first + i);
        held[i] = ld(PieceAt<Piece>(args.data, args.stride, from, piece));
      }
    }
    K_UNROLL
    for (int i = 0; i < kCompactRows; ++i) {
      if (first + i < args.rows) {
        st(PieceAt<Piece>(args.data, args.stride, first + i, piece), held[i]);
      }
    }
  }
}

static bool In16Bytes(const void* p, int64_t stride) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride % 16 == 0;
}

void GatherRows(const GatherRowsArgs& args, Stream stream) {
  if (args.rows == 0 || args.row_bytes == 0) return;
  const bool wide = In16Bytes(args.src, args.src_stride) && In16Bytes(args.dst, args.dst_stride) &&
                    args.row_bytes % 16 == 0;
  const int64_t pieces = args.rows * (args.row_bytes / (wide ? 16 : 4));
  launch(wide ? GatherRowsKernel<uint4> : GatherRowsKernel<uint32_t>,
         static_cast<unsigned>((pieces + kGatherThreads - 1) / kGatherThreads), kGatherThreads, 0,
         stream, args);
}

void CompactRows(const CompactRowsArgs& args, Stream stream) {
  if (args.rows == 0 || args.row_bytes == 0) return;
  const bool wide = In16Bytes(args.data, args.stride) && args.row_bytes % 16 == 0;
  const int64_t pieces = args.row_bytes / (wide ? 16 : 4);
  launch(wide ? CompactRowsKernel<uint4> : CompactRowsKernel<uint32_t>,
         static_cast<unsigned>((pieces + kCompactThreads - 1) / kCompactThreads), kCompactThreads,
         0, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
