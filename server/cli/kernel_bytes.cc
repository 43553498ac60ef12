#include "server/cli/kernel_bytes.h"

#include "kernels/weight_codes.h"
#include "kvcache/layout.h"

namespace tandem::server {

using kernels::Bf16;

uint64_t MatrixBytes(const ProductShape& w) { return kernels::PackedBytes(w.format, w.out, w.in); }

uint64_t LinearBytes(const ProductShape& w, int rows, size_t operand_bytes) {
  return MatrixBytes(w) + uint64_t(rows) * (w.in * operand_bytes + w.out * sizeof(float));
}

int GateUpRows(int width) {
  return 2 * kernels::kTileOutputs * static_cast<int>(kernels::PackedTiles(width));
}

uint64_t GegluBytes(kernels::WeightFormat format, int width, int in, int rows,
                    size_t operand_bytes) {
  return MatrixBytes({format, GateUpRows(width), in}) +
         uint64_t(rows) * (in + width) * operand_bytes;
}

uint64_t ExpertsBytes(const ExpertShape& shape, int chosen, int rows, size_t operand_bytes) {
  const uint64_t expert = MatrixBytes({shape.format, GateUpRows(shape.width), shape.dim}) +
                          MatrixBytes({shape.format, shape.dim, shape.width});
  const uint64_t routing = shape.top_k * (sizeof(int32_t) + sizeof(float));
  return chosen * expert + uint64_t(rows) * (shape.dim * (operand_bytes + sizeof(float)) + routing);
}

uint64_t RmsNormBytes(int rows, int dim, size_t operand_bytes) {
  return uint64_t(rows) * dim * (sizeof(float) + operand_bytes) + dim * sizeof(float);
}

uint64_t NormAddBytes(int rows, int dim) {
  return uint64_t(rows) * dim * 3 * sizeof(float) + dim * sizeof(float);
}

uint64_t KvPositionBytes(const KvShape& shape) {
  return shape.num_kv_heads *
         (kernels::KvRowBytes(shape.k, shape.head_dim) + kvcache::KvScaleBytes(shape.k) +
          kernels::KvRowBytes(shape.v, shape.head_dim) + kvcache::KvScaleBytes(shape.v));
}

uint64_t QkvPostBytes(const KvShape& shape, bool has_v, int live, int rows, size_t operand_bytes) {
  const uint64_t q = uint64_t(shape.num_q_heads) * shape.head_dim * (sizeof(float) + operand_bytes);
  const uint64_t kv = uint64_t(shape.num_kv_heads) * shape.head_dim * sizeof(float);
  const uint64_t rotation = 2 * live * sizeof(float);
  const uint64_t norms = 2 * shape.head_dim * sizeof(float);
  return rows * (q + (has_v ? 2 : 1) * kv + rotation + KvPositionBytes(shape)) + norms;
}

uint64_t AttentionBytes(const KvShape& shape, int sequences, int visible, size_t operand_bytes) {
  const uint64_t q_and_out = 2 * uint64_t(shape.num_q_heads) * shape.head_dim * operand_bytes;
  return sequences * (visible * KvPositionBytes(shape) + q_and_out);
}

uint64_t EmbedBytes(int rows, int dim) {
  return uint64_t(rows) * (dim * (sizeof(Bf16) + sizeof(float)) + sizeof(int32_t));
}

uint64_t PleBytes(int rows, int layers, int width) {
  const uint64_t values = uint64_t(layers) * width;
  return uint64_t(rows) * values * (sizeof(Bf16) + 2 * sizeof(float)) + width * sizeof(float);
}

}  // namespace tandem::server
