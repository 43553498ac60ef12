#include "kernels/reference/attention_ref.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace tandem::kernels {
namespace {

const std::byte* KRow(const KvView& kv, int64_t block, int head, int cell, int dim) {
  return kv.base + block * kv.block_stride + head * kv.head_stride +
         cell * KvRowBytes(kv.k_format, dim);
}

const std::byte* VRow(const KvView& kv, int64_t block, int head, int cell, int dim) {
  return kv.base + block * kv.block_stride + head * kv.head_stride + kv.v_offset +
         cell * KvRowBytes(kv.v_format, dim);
}

void Decode(KvFormat format, const std::byte* row, int dim, double* values) {
  for (int d = 0; d < dim; ++d) {
    float x;
    Bf16 half;
    if (format == KvFormat::kF32) {
      std::memcpy(&x, row + d * 4, 4);
    } else {
      std::memcpy(&half, row + d * 2, 2);
      x = ToFloat(half);
    }
    values[d] = x;
  }
}

}  // namespace

bool AttentionSupported(const AttentionShape& shape) {
  const auto known = [](KvFormat f) { return f == KvFormat::kF32 || f == KvFormat::kBf16; };
  return (shape.head_dim == 256 || shape.head_dim == 512) && known(shape.k_format) &&
         known(shape.v_format);
}

void AttentionReference(const AttentionArgs& args) {
  const int64_t dim = args.head_dim;
  const int group = args.num_q_heads / args.num_kv_heads;
  const int log2 = args.kv.log2_block_tokens;
  std::vector<double> keys, values, scores, sum(dim);
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
            Decode(args.kv.k_format, KRow(args.kv, block, n / group, cell, args.head_dim),
                   args.head_dim, &keys[i * dim]);
            Decode(args.kv.v_format, VRow(args.kv, block, n / group, cell, args.head_dim),
                   args.head_dim, &values[i * dim]);
          }
        }
        const float* q = args.q + t * args.q_stride + n * dim;
        float* out = args.out + (int64_t{t} * args.num_q_heads + n) * dim;
        double max = -INFINITY;
        for (int i = 0; i < visible; ++i) {
          scores[i] = 0.0;
          for (int64_t d = 0; d < dim; ++d) scores[i] += q[d] * keys[i * dim + d];
          max = std::fmax(max, scores[i]);
        }
        std::fill(sum.begin(), sum.end(), 0.0);
        double total = 0.0;
        for (int i = 0; i < visible; ++i) {
          const double weight = std::exp(scores[i] - max);
          total += weight;
          for (int64_t d = 0; d < dim; ++d) sum[d] += weight * values[i * dim + d];
        }
        for (int64_t d = 0; d < dim; ++d) {
          out[d] = visible == 0 ? 0.0f : static_cast<float>(sum[d] / total);
        }
      }
    }
  }
}

}  // namespace tandem::kernels
