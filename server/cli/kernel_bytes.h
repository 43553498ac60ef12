// What operations have to move between memory and the processor, by formula: each input read once,
// each result written once. Weights with their scales and their padding, as they are held.
//
//   operand_bytes  kernels::Ops::operand_bytes
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace tandem::server {

struct ProductShape {
  kernels::WeightFormat format = kernels::WeightFormat::kBf16;
  int out = 0;
  int in = 0;
};

uint64_t MatrixBytes(const ProductShape& w);

// x operands, y f32.
uint64_t LinearBytes(const ProductShape& w, int rows, size_t operand_bytes);

// Rows of gate and up together, in whole tiles: what kernels::LinearGegluArgs calls w.out.
int GateUpRows(int width);

// x and y operands.
uint64_t GegluBytes(kernels::WeightFormat format, int width, int in, int rows,
                    size_t operand_bytes);

struct ExpertShape {
  kernels::WeightFormat format = kernels::WeightFormat::kBf16;
  int width = 0;
  int dim = 0;
  int top_k = 0;
};
//   chosen  experts that at least one row has chosen: only these are read
uint64_t ExpertsBytes(const ExpertShape& shape, int chosen, int rows, size_t operand_bytes);

uint64_t RmsNormBytes(int rows, int dim, size_t operand_bytes);
uint64_t NormAddBytes(int rows, int dim);

struct KvShape {
  kernels::KvFormat k = kernels::KvFormat::kBf16;
  kernels::KvFormat v = kernels::KvFormat::kBf16;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
};
// K and V of one position in one layer, scales counted.
uint64_t KvPositionBytes(const KvShape& shape);

// q heads f32 in and of operands' size out; k heads, and v heads where the layer has them, f32 in
// and stored.
uint64_t QkvPostBytes(const KvShape& shape, bool has_v, int live, int rows, size_t operand_bytes);

// One row of each sequence over its visible positions.
uint64_t AttentionBytes(const KvShape& shape, int sequences, int visible, size_t operand_bytes);

uint64_t EmbedBytes(int rows, int dim);
uint64_t PleBytes(int rows, int layers, int width);

}  // namespace tandem::server
