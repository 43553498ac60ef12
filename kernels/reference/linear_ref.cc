#include "kernels/reference/linear_ref.h"

#include <vector>

#include "kernels/reference/row_ops_ref.h"

namespace tandem::kernels {
namespace {

// Row n of W times x.
double Dot(const WeightView& w, int n, const float* x, Operands operands) {
  const size_t pairs = (static_cast<size_t>(w.in) + 1) / 2;
  const Bf16* tile = w.data + (n / kTileOutputs) * pairs * 32;
  double sum = 0.0;
  for (int k = 0; k < w.in; ++k) {
    const Bf16 weight = tile[static_cast<size_t>(k / 2) * 32 + n % kTileOutputs * 2 + k % 2];
    const float value = operands == Operands::kBf16 ? ToFloat(ToBf16(x[k])) : x[k];
    sum += static_cast<double>(ToFloat(weight)) * value;
  }
  return sum;
}

}  // namespace

void LinearReference(const LinearArgs& args, Operands operands) {
  for (int t = 0; t < args.rows; ++t) {
    for (int n = 0; n < args.w.out; ++n) {
      AsF32(args.y)[t * args.y_stride + n] =
          static_cast<float>(Dot(args.w, n, AsF32(args.x) + t * args.x_stride, operands));
    }
  }
}

void LinearClustersReference(const LinearClustersArgs& args, Operands operands) {
  for (int64_t t = 0; t < args.rows; ++t) {
    for (int j = 0; j < args.chosen; ++j) {
      WeightView cluster = args.first;
      cluster.data += args.ids[t * args.chosen + j] * args.cluster_elements;
      LinearReference({.x = AsF32(args.x) + t * args.x_stride,
                       .x_stride = args.x_stride,
                       .w = cluster,
                       .y = args.y + t * args.y_stride + int64_t{j} * cluster.out,
                       .y_stride = args.y_stride,
                       .rows = 1},
                      operands);
    }
  }
}

void LinearGegluReference(const LinearGegluArgs& args, Operands operands) {
  for (int t = 0; t < args.rows; ++t) {
    const float* x = AsF32(args.x) + t * args.x_stride;
    for (int i = 0; i < args.width; ++i) {
      const int gate = i / kTileOutputs * 2 * kTileOutputs + i % kTileOutputs;
      AsF32(args.y)[t * args.y_stride + i] =
          static_cast<float>(GeluTanhReference(Dot(args.w, gate, x, operands)) *
                             Dot(args.w, gate + kTileOutputs, x, operands));
    }
  }
}

void ExpertsReference(const ExpertsArgs& args, Operands operands) {
  std::vector<float> hidden(static_cast<size_t>(args.width));
  std::vector<double> sum(static_cast<size_t>(args.dim));
  for (int t = 0; t < args.rows; ++t) {
    sum.assign(sum.size(), 0.0);
    for (int j = 0; j < args.top_k; ++j) {
      const int64_t pair = int64_t{t} * args.top_k + j;
      const int expert = args.ids[pair];
      LinearGegluReference({.x = AsF32(args.x) + int64_t{t} * args.dim,
                            .x_stride = args.dim,
                            .w = args.gate_up[expert],
                            .y = hidden.data(),
                            .y_stride = args.width,
                            .rows = 1,
                            .width = args.width},
                           operands);
      for (int i = 0; i < args.dim; ++i) {
        sum[i] += args.weights[pair] * Dot(args.down[expert], i, hidden.data(), operands);
      }
    }
    for (int i = 0; i < args.dim; ++i) {
      args.out[int64_t{t} * args.dim + i] = static_cast<float>(sum[i]);
    }
  }
}

}  // namespace tandem::kernels
