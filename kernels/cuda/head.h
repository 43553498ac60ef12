// The output head: soft-capped logits, or each row's best token without storing them.
//
// Both compare and cap the same bits, which are those of WLinear (w_linear.h), or WLinearCodes
// (w_linear_codes.h), before the cap.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// z[t, v] = cap * tanh(y[t, v] / cap), y[t, v] = sum_k table[v, k] * x[t, k]; -infinity where v is
// suppressed                                                           (gemma4.md 2.8)
struct HeadArgs {
  const bf16* x = nullptr;           // [rows, x_stride], `dim` values used; 16-byte aligned
  int64_t x_stride = 0;              // a multiple of 8
  const bf16* table = nullptr;       // [vocab, dim], 16-byte aligned; or null, and then
  const std::byte* codes = nullptr;  // [vocab, dim] int8 of PackCodeRow (w_codes_pack.h), 16-byte
  const f16* scales = nullptr;       // aligned both
  // [ceil(vocab / 32)], bit v % 32 of word v / 32: never chosen. Null: none.
  const uint32_t* suppressed = nullptr;
  float cap = 0.0f;  // above 0; 0 leaves y as it is
  int rows = 0;      // any number
  int dim = 0;       // WLinearSupports it
  int vocab = 0;
};

struct alignas(8) HeadChoice {
  float value;
  int32_t id;
};

// logits [rows, vocab]
void HeadLogits(const HeadArgs& args, float* logits, Stream stream);

// How many HeadChoice HeadArgmax needs for itself, at most.
size_t HeadScratch(int rows, int vocab);

// choices [rows]: the largest z and its id, the lowest one of equals; a NaN counts as -infinity.
void HeadArgmax(const HeadArgs& args, HeadChoice* scratch, HeadChoice* choices, Stream stream);

}  // namespace tandem::kernels::K_WORLD
