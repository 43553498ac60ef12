#include "kernels/reference/attention_ref.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/kv_row.h"
#include "kernels/reference/kv_row_ref.h"

namespace tandem::kernels {
namespace {

// What meets the rows of a K format: q, or, for one with a scale, H(s q) / sqrt(dim) in 8 bits.
void PrepareQuery(const float* q, KvFormat k_format, int dim, double* prepared) {
  if (!KvHasScale(k_format)) {
    std::copy(q, q + dim, prepared);
    return;
  }
  std::vector<float> y(dim);
  RotateReference(q, dim, y.data());
  float max = 0.0f;
  for (const float x : y) max = std::isfinite(x) ? std::max(max, std::fabs(x)) : INFINITY;
  if (max < 1e-30f || max > 3e38f) {
    std::fill_n(prepared, dim, max < 1e-30f ? 0.0 : std::numeric_limits<double>::quiet_NaN());
    return;
  }
  const float inverse = 127.0f / max;
  const double step = double{max} / 127.0 / std::sqrt(dim);
  for (int d = 0; d < dim; ++d) prepared[d] = step * std::nearbyint(y[d] * inverse);
}

// x = s (1/sqrt(dim)) H x
void Unrotate(double* x, int dim) {
  for (int h = 1; h < dim; h *= 2) {
    for (int j = 0; j < dim; ++j) {
      if ((j & h) != 0) continue;
      const double a = x[j], b = x[j + h];
      x[j] = a + b;
      x[j + h] = a - b;
    }
  }
  for (int d = 0; d < dim; ++d) {
    x[d] *= ((kKvSignWords[d / 64] >> (d % 64) & 1) != 0 ? -1.0 : 1.0) / std::sqrt(dim);
  }
}

}  // namespace

bool AttentionSupported(const AttentionShape& shape) {
  const auto known = [](KvFormat f) { return static_cast<int>(f) < kNumKvFormats; };
  return (shape.head_dim == 256 || shape.head_dim == 512) && known(shape.k_format) &&
         known(shape.v_format);
}

void AttentionReference(const AttentionArgs& args) {
  const int64_t dim = args.head_dim;
  const int group = args.num_q_heads / args.num_kv_heads;
  const int log2 = args.kv.log2_block_tokens;
  std::vector<float> keys, values;
  std::vector<double> scores, query(dim), sum(dim);
  for (const AttentionSegment& segment : args.segments) {
    for (int t = segment.row_begin; t < segment.row_begin + segment.num_rows; ++t) {
      const int begin = args.visible_begin[t];
      const int visible = std::max(0, args.visible_end[t] - begin);
      keys.resize(visible * dim);
      values.resize(visible * dim);
      scores.resize(visible);
      for (int n = 0; n < args.num_q_heads; ++n) {
        if (n % group == 0) {  // what the heads of one group read
          for (int i = 0; i < visible; ++i) {
            const int block = segment.block_table[(begin + i) >> log2];
            const int cell = (begin + i) & ((1 << log2) - 1);
            DecodeRowReference(args.kv.k_format, args.head_dim,
                               KRowAt(args.kv, block, n / group, cell, args.head_dim),
                               &keys[i * dim]);
            DecodeRowReference(args.kv.v_format, args.head_dim,
                               VRowAt(args.kv, block, n / group, cell, args.head_dim),
                               &values[i * dim]);
          }
        }
        PrepareQuery(args.q + t * args.q_stride + n * dim, args.kv.k_format, args.head_dim,
                     query.data());
        float* out = AsF32(args.out) + (int64_t{t} * args.num_q_heads + n) * dim;
        double max = -INFINITY;
        for (int i = 0; i < visible; ++i) {
          scores[i] = 0.0;
          for (int64_t d = 0; d < dim; ++d) scores[i] += query[d] * keys[i * dim + d];
          max = std::fmax(max, scores[i]);
        }
        std::fill(sum.begin(), sum.end(), 0.0);
        double total = 0.0;
        for (int i = 0; i < visible; ++i) {
          const double weight = std::exp(scores[i] - max);
          total += weight;
          for (int64_t d = 0; d < dim; ++d) sum[d] += weight * values[i * dim + d];
        }
        if (KvHasScale(args.kv.v_format)) Unrotate(sum.data(), args.head_dim);
        for (int64_t d = 0; d < dim; ++d) {
          out[d] = visible == 0 ? 0.0f : static_cast<float>(sum[d] / total);
        }
      }
    }
  }
}

}  // namespace tandem::kernels
