// The products of experts_products.h with bf16 weights.
#include "kernels/cuda/experts_products.h"

namespace tandem::kernels::K_WORLD {

void LaunchExpertsGateUp(const LinearOperands& operands, const ExpertMatrices& weights,
                         const ExpertsPass& pass, Stream stream) {
  if (weights.format != WeightFormat::kBf16) {
    return LaunchCodedExpertsGateUp(operands, weights, pass, stream);
  }
  LinearOperands of_first = operands;
  of_first.w = weights.w;
  LaunchGateUp(of_first, weights, pass, stream);
}

void LaunchExpertsDown(const LinearOperands& operands, const ExpertMatrices& weights,
                       const ExpertsPass& pass, Stream stream) {
  if (weights.format != WeightFormat::kBf16) {
    return LaunchCodedExpertsDown(operands, weights, pass, stream);
  }
  LinearOperands of_first = operands;
  of_first.w = weights.w;
  LaunchDown(of_first, weights, pass, stream);
}

}  // namespace tandem::kernels::K_WORLD
