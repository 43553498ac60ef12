// Rows of any type moved as they are, chosen by an index on the device.
//
// Shapes    row_bytes and the strides, in bytes, are multiples of 4, and arrays 4-byte aligned.
//           Where all of them are multiples of 16 a row moves in pieces of 16 bytes.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// dst row i = src row index[i]; where index[i] is negative dst row i stays as it is.
struct GatherRowsArgs {
  const void* src = nullptr;
  int64_t src_stride = 0;
  const int32_t* index = nullptr;  // [rows]
  void* dst = nullptr;             // does not overlap src
  int64_t dst_stride = 0;
  int64_t row_bytes = 0;  // rows * row_bytes / 4 < 2^31
  int rows = 0;
};

// data row i = data row index[i], in place; index ascends strictly, so index[i] >= i.
struct CompactRowsArgs {
  void* data = nullptr;
  int64_t stride = 0;
  const int32_t* index = nullptr;  // [rows], from 0 up
  int64_t row_bytes = 0;
  int rows = 0;  // that are kept
};

void GatherRows(const GatherRowsArgs& args, Stream stream);
void CompactRows(const CompactRowsArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
