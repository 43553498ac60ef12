#include "kernels/reference/row_ops_ref.h"

#include <cmath>
#include <cstring>

#include "kernels/cpu/code_layout.h"

namespace tandem::kernels {
namespace {

// (mean(x^2) + eps)^(-1/2)
double InverseRms(const float* x, int dim, double scale, float eps) {
  double sum = 0.0;
  for (int i = 0; i < dim; ++i) sum += (scale * x[i]) * (scale * x[i]);
  return 1.0 / std::sqrt(sum / dim + double{eps});
}

}  // namespace

double GeluTanhReference(double x) {
  // (1 + tanh(u)) / 2 written as 1 / (1 + exp(-2 u)), which does not cancel where u is negative.
  const double sqrt_2_over_pi = 0.79788456080286535588;
  return x / (1.0 + std::exp(-2.0 * sqrt_2_over_pi * (x + 0.044715 * x * x * x)));
}

void EmbedReference(const EmbedArgs& args) {
  const int dim = args.table.in;
  const int64_t out_stride = args.out_stride > 0 ? args.out_stride : dim;
  const size_t pairs = (static_cast<size_t>(dim) + 1) / 2;
  for (size_t t = 0; t < args.ids.size(); ++t) {
    const size_t n = static_cast<size_t>(args.ids[t]);
    const size_t first = n / kTileOutputs * pairs * 32 + n % kTileOutputs * 2;
    float* out = AsF32(args.out) + static_cast<int64_t>(t) * out_stride;
    for (int k = 0; k < dim; ++k) {
      const float weight =
          args.table.format == WeightFormat::kBf16
              ? ToFloat(args.table.data[first + static_cast<size_t>(k / 2) * 32 + k % 2])
              : DecodeWeight(ScaleAt(args.table, args.ids[t], k),
                             CodeAt(args.table, args.ids[t], k));
      out[k] = weight * args.scale;
    }
  }
}

void PleReference(const PleArgs& args) {
  const int64_t row_values = int64_t{args.layers} * args.width;
  for (size_t t = 0; t < args.ids.size(); ++t) {
    const int64_t id = args.ids[t] >= 0 && args.ids[t] < args.table_rows ? args.ids[t] : 0;
    const auto* table = reinterpret_cast<const std::byte*>(args.table) + id * row_values * 2;
    float* ctx = args.ctx + static_cast<int64_t>(t) * row_values;
    for (int l = 0; l < args.layers; ++l, table += args.width * 2, ctx += args.width) {
      const double inverse = InverseRms(ctx, args.width, args.ctx_scale, args.eps);
      for (int d = 0; d < args.width; ++d) {
        Bf16 token;
        std::memcpy(&token, table + d * 2, 2);  // any alignment
        const double normed = ctx[d] * double{args.ctx_scale} * inverse * args.norm[d];
        ctx[d] = static_cast<float>((normed + ToFloat(token) * double{args.table_scale}) *
                                    args.out_scale);
      }
    }
  }
}

void RmsNormReference(const RmsNormArgs& args) {
  for (int t = 0; t < args.rows; ++t) {
    const float* x = args.x + int64_t{t} * args.dim;
    float* y = AsF32(args.y) + int64_t{t} * args.dim;
    const double inverse = InverseRms(x, args.dim, 1.0, args.eps);
    for (int d = 0; d < args.dim; ++d) {
      y[d] = static_cast<float>(x[d] * inverse * (args.weight ? args.weight[d] : 1.0f));
    }
  }
}

void NormAddReference(const NormAddArgs& args) {
  const float scale = args.scale != nullptr ? *args.scale : 1.0f;
  for (int t = 0; t < args.rows; ++t) {
    const float* a = args.a + int64_t{t} * args.dim;
    float* h = args.h + int64_t{t} * args.dim;
    const double inverse = InverseRms(a, args.dim, 1.0, args.eps);
    for (int d = 0; d < args.dim; ++d) {
      h[d] = static_cast<float>((h[d] + a[d] * inverse * args.weight[d]) * scale);
    }
  }
}

void GeluMulReference(const GeluMulArgs& args) {
  for (int64_t t = 0; t < args.rows; ++t) {
    for (int i = 0; i < args.dim; ++i) {
      AsF32(args.y)[t * args.y_stride + i] = static_cast<float>(
          GeluTanhReference(args.a[t * args.a_stride + i]) * args.b[t * args.b_stride + i]);
    }
  }
}

void RopeTableReference(const RopeTableArgs& args) {
  const size_t live = args.inv_freq.size();
  for (size_t t = 0; t < args.positions.size(); ++t) {
    for (size_t j = 0; j < live; ++j) {
      const float angle = static_cast<float>(args.positions[t]) * args.inv_freq[j];
      args.cos[t * live + j] = static_cast<float>(std::cos(double{angle}));
      args.sin[t * live + j] = static_cast<float>(std::sin(double{angle}));
    }
  }
}

void RouteReference(const RouteArgs& args) {
  for (int t = 0; t < args.rows; ++t) {
    const float* logits = args.logits + int64_t{t} * args.experts;
    int32_t* ids = args.ids + int64_t{t} * args.top_k;
    float* weights = args.weights + int64_t{t} * args.top_k;

    // An expert is chosen when fewer than top_k others are larger, or equal with a lower id.
    int chosen = 0;
    double max = -INFINITY;
    for (int e = 0; e < args.experts; ++e) {
      int before = 0;
      for (int other = 0; other < args.experts; ++other) {
        before += logits[other] > logits[e] || (logits[other] == logits[e] && other < e);
      }
      if (before >= args.top_k || chosen == args.top_k) continue;
      ids[chosen++] = e;
      max = std::fmax(max, logits[e]);
    }
    double sum = 0.0;
    for (int k = 0; k < chosen; ++k) sum += std::exp(logits[ids[k]] - max);
    for (int k = 0; k < chosen; ++k) {
      weights[k] =
          static_cast<float>(std::exp(logits[ids[k]] - max) / sum * args.expert_scale[ids[k]]);
    }
  }
}

void SoftcapReference(const SoftcapArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) {
    args.x[i] = static_cast<float>(args.cap * std::tanh(double{args.x[i]} / args.cap));
  }
}

}  // namespace tandem::kernels
