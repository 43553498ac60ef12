// Int8 and int4 weights for prompt rows: expanded to bf16, then multiplied as bf16 weights are.
//
// Promise   that of p_linear.h; the bits are those of PLinear with the expanded weights, however
//           much scratch there is.
#pragma once

#include "kernels/cuda/w_linear_codes.h"

namespace tandem::kernels::K_WORLD {

// w[n, k] = scale[n, k / 32] * code[n, k], rounded to bf16
struct DequantWeightsArgs {
  WeightFormat format = WeightFormat::kInt8;  // or kInt4
  const std::byte* codes = nullptr;           // [out, in] of PackCodeRow (w_codes_pack.h), 16-byte
  const f16* scales = nullptr;                // aligned both
  bf16* w = nullptr;                          // [out, in] row-major, likewise
  int out = 0;
  int in = 0;  // a multiple of 8
};
void DequantWeights(const DequantWeightsArgs& args, Stream stream);

// Where weights are expanded, one piece of the matrix after the other. A call needs
// PromptScratchMin(in) elements; with those of the whole matrix it takes one pass.
struct PromptScratch {
  bf16* data = nullptr;  // 16-byte aligned
  size_t elements = 0;
};
constexpr size_t PromptScratchMin(int in) { return size_t{128} * static_cast<size_t>(in); }

// WLinearCodes and WLinearCodesGeglu for prompt rows.
void PLinearCodes(const WLinearCodesArgs& args, const PromptScratch& scratch, Stream stream);
void PLinearCodesGeglu(const WLinearCodesGegluArgs& args, const PromptScratch& scratch,
                       Stream stream);

}  // namespace tandem::kernels::K_WORLD
