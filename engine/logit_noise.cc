#include "engine/logit_noise.h"

#include <cmath>

namespace tandem::engine {
namespace {

double Length(const float* values, int size) {
  double sum = 0.0;
  for (int i = 0; i < size; ++i) sum += double{values[i]} * values[i];
  return std::sqrt(sum);
}

}  // namespace

std::vector<double> LogitSizes(const ModelConfig& config, const Weights& weights) {
  std::vector<double> sizes;
  for (int i = 0; i < config.num_layers(); ++i) {
    const LayerDesc& layer = config.layers[i];
    const double q = Length(weights.layers[i].q_norm, layer.head_dim);
    const double k = Length(weights.layers[layer.kv_owner].k_norm, layer.head_dim);
    sizes.push_back(q * k / std::sqrt(layer.head_dim));
  }
  return sizes;
}

double KeyNoise(kernels::KvFormat k_format) {
  switch (k_format) {
    case kernels::KvFormat::kF32:
    case kernels::KvFormat::kBf16:
    case kernels::KvFormat::kF16:
      return 0.0;
    case kernels::KvFormat::kQ8:
      return std::sqrt(0.00005);
    case kernels::KvFormat::kTurbo4:
      return std::sqrt(0.00950526);
    case kernels::KvFormat::kTurbo3:
      return std::sqrt(0.03454822);
    case kernels::KvFormat::kTurbo2:
      return std::sqrt(0.11748189);
  }
  return 0.0;
}

}  // namespace tandem::engine
