// What one instruction-set level offers product.cc, as raw pointers.
//
// A product y = x W^T is cut into tasks of a few weight tiles by many rows. Inputs are cut into
// units: pairs with bf16 weights, blocks of 64 with weights of codes. Activations are packed first:
// rows are cut into blocks of nearly equal size (BlockRows), and a block of R rows becomes a panel
// [units][R], so that the R values which meet the same weights lie together.
//
//   bf16 operands   panel [pairs][R][2] bf16    y += w0*x0 + w1*x1 by vdpbf16ps
//   f32 operands    panel [pairs][2][R] f32     y = fma(w1, x1, fma(w0, x0, y))
//   codes           linear_codes.h
//
// Each y is one f32 chain over ascending units, whatever the blocks, tasks and threads.
//
// Included by instruction-set files: everything here is a declaration, plain data, or static.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/types.h"

namespace tandem::kernels {

constexpr size_t kLineBytes = 64;  // of bf16 weights: one pair of inputs of one tile

constexpr int kUnitScales = 32;  // of codes: two groups of one tile

// Of one task, at most. They bound the sums that a thread keeps between its k blocks to 128 KiB.
constexpr int kMaxTaskTiles = 4;
constexpr int kMaxTaskRows = 512;

constexpr size_t kPartialRow = size_t{kMaxTaskTiles} * kTileOutputs;  // floats
constexpr size_t kPartialFloats = kPartialRow * kMaxTaskRows;

// Block `index` of `blocks`: rows [begin, begin + count) of `rows`, sizes differing by at most one.
struct RowBlock {
  int begin;
  int count;
};
static inline RowBlock BlockRows(int rows, int blocks, int index) {
  const int base = rows / blocks;
  const int extra = rows % blocks;
  return {index * base + (index < extra ? index : extra), base + (index < extra ? 1 : 0)};
}

// Rows of x that become one panel, and which of their units.
struct PackTask {
  const float* x;  // [.., x_stride]
  int64_t x_stride;
  const int32_t* row_ids;  // [rows] rows of x; null: 0, 1, ...
  int rows;                // at most max_block_rows
  int in;
  int unit_begin;
  int unit_end;      // at most as many as hold `in`; missing last inputs pack as 0
  std::byte* panel;  // of the whole block, from unit 0
};

enum class Finish {
  kStore,      // y[t, i] = sum_i
  kGeglu,      // y[t, i] = gelu_tanh(sum of gate i) * (sum of up i), tiles alternating gate and up
  kAddScaled,  // y[row_ids[t], i] = fma(scales[t], sum_i, y[row_ids[t], i])
};

struct ProductTask {
  const std::byte*
      panels;       // block b at byte BlockRows(rows, blocks, b).begin * units * panel_bytes
  int rows;         // of all blocks
  int blocks;       // of `rows`
  int block_begin;  // blocks of this task, at most kMaxTaskRows rows
  int block_end;
  int units;
  const std::byte* weights;       // first tile of this task
  const std::byte* next_weights;  // first tile that this thread needs afterwards, to prefetch
  const F16* weight_scales;       // of the first tile; null with bf16 weights
  int tiles;                      // at most kMaxTaskTiles; even for kGeglu
  Finish finish;
  float* y;  // [rows, y_stride], first column of this task
  int64_t y_stride;
  int columns;             // of y to write
  const int32_t* row_ids;  // [rows], kAddScaled
  const float* scales;     // [rows], kAddScaled
  float* partial;          // [kPartialFloats], this thread's
};

struct LinearKernel {
  int max_block_rows;
  int unit_inputs;
  size_t panel_bytes;   // of one row's unit in a panel
  size_t weight_bytes;  // of one tile's unit
  void (*pack)(const PackTask& task);
  void (*product)(const ProductTask& task);
  // Multiply-adds of registers alone by the instruction that `product` uses; how many were done.
  int64_t (*multiply_add)(int64_t iterations);
};

// `pack` of the levels with f32 operands (linear.cc).
void PackF32(const PackTask& task);

extern const LinearKernel kLinearAvx2;        // f32 operands
extern const LinearKernel kLinearAvx512;      // f32 operands
extern const LinearKernel kLinearAvx512Bf16;  // bf16 operands

// Weights of codes, by format (linear_codes.h).
struct CodedKernels {
  LinearKernel int8;
  LinearKernel int4;
};
extern const CodedKernels kLinearCodesAvx2;
extern const CodedKernels kLinearCodesAvx512;
extern const CodedKernels kLinearCodesVnni;  // with kAvx512Bf16, which has it

}  // namespace tandem::kernels
