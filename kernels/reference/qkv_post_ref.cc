#include "kernels/reference/qkv_post_ref.h"

#include <atomic>
#include <cmath>
#include <vector>

#include "kernels/reference/kv_row_ref.h"

namespace tandem::kernels {
namespace {

// y = RmsNorm(x; weight), weight null: 1; then rope on the first `live` pairs.
void NormRope(const QkvPostArgs& args, const float* x, const float* weight, int row, int live,
              double* y) {
  const int dim = args.head_dim, half = dim / 2;
  double sum = 0.0;
  for (int d = 0; d < dim; ++d) sum += double{x[d]} * x[d];
  const double inverse = 1.0 / std::sqrt(sum / dim + double{args.eps});
  for (int d = 0; d < dim; ++d) y[d] = x[d] * inverse * (weight ? weight[d] : 1.0f);
  for (int j = 0; j < live; ++j) {
    const double cos = args.cos[int64_t{row} * args.live + j];
    const double sin = args.sin[int64_t{row} * args.live + j];
    const double a = y[j], b = y[j + half];
    y[j] = a * cos - b * sin;
    y[j + half] = b * cos + a * sin;
  }
}

}  // namespace

void QkvPostReference(const QkvPostArgs& args) {
  const int dim = args.head_dim;
  const KvView& kv = args.kv;
  std::vector<double> y(dim);
  std::vector<float> row(dim);
  for (int t = 0; t < args.rows; ++t) {
    float* q = args.qkv + t * args.stride;
    const float* k = q + int64_t{args.num_q_heads} * dim;
    const float* v = args.has_v ? k + int64_t{args.num_kv_heads} * dim : k;
    for (int n = 0; n < args.num_q_heads; ++n, q += dim) {
      NormRope(args, q, args.q_norm, t, args.live, y.data());
      for (int d = 0; d < dim; ++d) q[d] = static_cast<float>(y[d]);
    }
    for (int n = 0; n < args.num_kv_heads; ++n, k += dim, v += dim) {
      const int64_t block = args.cells[t] >> kv.log2_block_tokens;
      const int cell = args.cells[t] & ((1 << kv.log2_block_tokens) - 1);
      NormRope(args, k, args.k_norm, t, args.live, y.data());
      for (int d = 0; d < dim; ++d) row[d] = static_cast<float>(y[d]);
      NoteKvRow(args, t, 0,
                EncodeRowReference(row.data(), kv.k_format, dim, KRowAt(kv, block, n, cell, dim)));
      NormRope(args, v, nullptr, t, 0, y.data());
      for (int d = 0; d < dim; ++d) row[d] = static_cast<float>(y[d]);
      NoteKvRow(args, t, 1,
                EncodeRowReference(row.data(), kv.v_format, dim, VRowAt(kv, block, n, cell, dim)));
    }
  }
}

void NoteKvRow(const QkvPostArgs& args, int64_t t, int side, KvRowStatus status) {
  if (status == KvRowStatus::kOk) return;
  if (status == KvRowStatus::kNonfinite && args.nonfinite != nullptr) args.nonfinite[t] = 1;
  if (args.counts == nullptr) return;
  switch (status) {
    case KvRowStatus::kOk:
      break;
    case KvRowStatus::kZero:
      args.counts->zero[side].fetch_add(1, std::memory_order_relaxed);
      break;
    case KvRowStatus::kClamped:
      args.counts->clamped[side].fetch_add(1, std::memory_order_relaxed);
      break;
    case KvRowStatus::kNonfinite:
      args.counts->nonfinite[side].fetch_add(1, std::memory_order_relaxed);
      break;
  }
}

}  // namespace tandem::kernels
