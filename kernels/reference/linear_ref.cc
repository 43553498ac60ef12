#include "kernels/reference/linear_ref.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/code_layout.h"
#include "kernels/reference/row_ops_ref.h"

namespace tandem::kernels {
namespace {

// Element (n, k) of W.
float WeightAt(const WeightView& w, int n, int k) {
  if (w.format != WeightFormat::kBf16) return DecodeWeight(ScaleAt(w, n, k), CodeAt(w, n, k));
  const size_t pairs = (static_cast<size_t>(w.in) + 1) / 2;
  const Bf16* tile = w.data + (n / kTileOutputs) * pairs * 32;
  return ToFloat(tile[static_cast<size_t>(k / 2) * 32 + n % kTileOutputs * 2 + k % 2]);
}

// One row of activations as it enters products.
class Row {
 public:
  Row(const float* x, int in, Operands operands) : operands_(operands), values_(x, x + in) {
    if (operands == Operands::kBf16) {
      for (float& value : values_) value = ToFloat(ToBf16(value));
    } else if (operands == Operands::kInt8) {
      for (int k = 0; k < in; k += kWeightGroup) {
        scales_.push_back(RoundGroup(values_.data() + k, std::min(kWeightGroup, in - k)));
      }
    }
  }

  // Row n of W times this row.
  double Times(const WeightView& w, int n) const {
    if (operands_ == Operands::kInt8) return TimesCodes(w, n);
    double sum = 0.0;
    for (int k = 0; k < w.in; ++k) sum += static_cast<double>(WeightAt(w, n, k)) * values_[k];
    return sum;
  }

 private:
  // Turns a group into codes; returns its scale.
  static float RoundGroup(float* values, int count) {
    float amax = 0.0f;
    bool finite = true;
    for (int i = 0; i < count; ++i) {
      finite = finite && std::isfinite(values[i]);
      amax = std::max(amax, std::abs(values[i]));
    }
    const bool empty = !finite || amax < 0x1p-100f;
    const float inverse = empty ? 0.0f : 127.0f / amax;
    for (int i = 0; i < count; ++i) values[i] = empty ? 0.0f : std::nearbyint(values[i] * inverse);
    return !finite ? std::numeric_limits<float>::quiet_NaN() : empty ? 0.0f : amax / 127.0f;
  }

  float TimesCodes(const WeightView& w, int n) const {
    float sum = 0.0f;
    for (int k = 0; k < w.in; k += kWeightGroup) {
      int dot = 0;
      for (int i = k; i < std::min(w.in, k + kWeightGroup); ++i) {
        dot += CodeAt(w, n, i) * static_cast<int>(values_[i]);
      }
      const float scale = ToFloat(ScaleAt(w, n, k)) * scales_[k / kWeightGroup];
      sum = std::fma(scale, static_cast<float>(dot), sum);
    }
    return sum;
  }

  Operands operands_;
  std::vector<float> values_;
  std::vector<float> scales_;  // of groups, kInt8
};

}  // namespace

void LinearReference(const LinearArgs& args, Operands operands) {
  for (int t = 0; t < args.rows; ++t) {
    const Row x(AsF32(args.x) + t * args.x_stride, args.w.in, operands);
    for (int n = 0; n < args.w.out; ++n) {
      AsF32(args.y)[t * args.y_stride + n] = static_cast<float>(x.Times(args.w, n));
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
    const Row x(AsF32(args.x) + t * args.x_stride, args.w.in, operands);
    for (int i = 0; i < args.width; ++i) {
      const int gate = i / kTileOutputs * 2 * kTileOutputs + i % kTileOutputs;
      AsF32(args.y)[t * args.y_stride + i] = static_cast<float>(
          GeluTanhReference(x.Times(args.w, gate)) * x.Times(args.w, gate + kTileOutputs));
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
      const Row between(hidden.data(), args.width, operands);
      for (int i = 0; i < args.dim; ++i) {
        sum[i] += args.weights[pair] * between.Times(args.down[expert], i);
      }
    }
    for (int i = 0; i < args.dim; ++i) {
      args.out[int64_t{t} * args.dim + i] = static_cast<float>(sum[i]);
    }
  }
}

}  // namespace tandem::kernels
