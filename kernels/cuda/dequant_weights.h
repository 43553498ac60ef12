// Int8 and int4 weights for prompt rows: expanded to bf16, then multiplied as bf16 weights are.
//
// Promise   that of p_linear.h; the bits are those of PLinear with the expanded weights, however
//           much scratch there is.
#pragma once

#include "kernels/cuda/w_linear_codes.h"
#include "kernels/cuda/w_linear_pack.h"
#include "kernels/weight_codes.h"

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

// Expands a piece of `out` outputs, then calls multiply(first), until all have had their turn.
template <typename Multiply>
void ForExpandedOutputs(DequantWeightsArgs all, const PromptScratch& scratch, Stream stream,
                        Multiply multiply) {
  // Whole tiles of PLinear, so that every piece but the last fills them.
  const size_t fit = scratch.elements / PromptScratchMin(all.in) * 128;
  const int step = fit < static_cast<size_t>(all.out) ? static_cast<int>(fit) : all.out;
  for (int first = 0; step > 0 && first < all.out; first += step) {
    const int outputs = all.out - first < step ? all.out - first : step;
    DequantWeights({.format = all.format,
                    .codes = all.codes + PackedCodeBytes(all.format, first, all.in),
                    .scales = all.scales + PackedCodeScales(first, all.in),
                    .w = scratch.data,
                    .out = outputs,
                    .in = all.in},
                   stream);
    multiply(first, outputs);
  }
}

// Calls multiply with the arguments of a product by bf16 weights for every piece of the matrix that
// fits the scratch.
template <typename Multiply>
void ForExpandedPieces(const WLinearCodesArgs& args, const PromptScratch& scratch, Stream stream,
                       Multiply multiply) {
  if (args.rows == 0) return;
  ForExpandedOutputs({.format = args.format,
                      .codes = args.codes,
                      .scales = args.scales,
                      .out = args.out,
                      .in = args.in},
                     scratch, stream, [&](int first, int outputs) {
                       multiply({.x = args.x,
                                 .x_stride = args.x_stride,
                                 .w = scratch.data,
                                 .y = args.y == nullptr ? nullptr : args.y + first,
                                 .y_f32 = args.y_f32 == nullptr ? nullptr : args.y_f32 + first,
                                 .y_stride = args.y_stride,
                                 .rows = args.rows,
                                 .in = args.in,
                                 .out = outputs});
                     });
}
template <typename Multiply>
void ForExpandedPieces(const WLinearCodesGegluArgs& args, const PromptScratch& scratch,
                       Stream stream, Multiply multiply) {
  if (args.rows == 0) return;
  ForExpandedOutputs({.format = args.format,
                      .codes = args.codes,
                      .scales = args.scales,
                      .out = GateUpRows(args.width),
                      .in = args.in},
                     scratch, stream, [&](int first, int outputs) {
                       const int left = args.width - first / 2;
                       multiply({.x = args.x,
                                 .x_stride = args.x_stride,
                                 .w = scratch.data,
                                 .y = args.y + first / 2,
                                 .y_stride = args.y_stride,
                                 .rows = args.rows,
                                 .in = args.in,
                                 .width = left < outputs / 2 ? left : outputs / 2});
                     });
}

}  // namespace tandem::kernels::K_WORLD
