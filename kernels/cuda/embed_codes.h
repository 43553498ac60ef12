// Rows of an int8 table by id: the embedding where the head's table is held as int8.
#pragma once

#include "kernels/cuda/kport.h"
#include "kernels/cuda/w_codes_pack.h"

namespace tandem::kernels::K_WORLD {

// out[t, k] = (table_scale[ids[t], k / 32] * code[ids[t], k]) * scale
struct EmbedCodesArgs {
  const std::byte* codes = nullptr;  // [vocab, dim] int8 of PackCodeRow (w_codes_pack.h), 16-byte
  const f16* scales = nullptr;       // aligned both
  const int32_t* ids = nullptr;      // [rows], each in [0, vocab), on the device
  float scale = 1.0f;
  // One of the two: [rows, out_stride], `dim` values written; 16-byte aligned, out_stride a
  // multiple of 8.
  float* out_f32 = nullptr;
  bf16* out = nullptr;
  int64_t out_stride = 0;
  int rows = 0;  // any number
  int dim = 0;   // a multiple of 8, as of WLinearSupports
};

void EmbedCodes(const EmbedCodesArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
