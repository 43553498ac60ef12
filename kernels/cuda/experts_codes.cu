// The products of experts_products.h with int8 and int4 weights.
#include "kernels/cuda/experts_products.h"

namespace tandem::kernels::K_WORLD {

template <int kBits>
static CodesOperands<kBits> CodesOf(const LinearOperands& operands, const ExpertMatrices& weights) {
  return {.x = operands.x,
          .x_stride = operands.x_stride,
          .codes = weights.codes,
          .scales = weights.scales,
          .in = operands.in,
          .out = operands.out};
}

void LaunchCodedExpertsGateUp(const LinearOperands& operands, const ExpertMatrices& weights,
                              const ExpertsPass& pass, Stream stream) {
  if (weights.format == WeightFormat::kInt8) {
    LaunchGateUp(CodesOf<8>(operands, weights), weights, pass, stream);
  } else {
    LaunchGateUp(CodesOf<4>(operands, weights), weights, pass, stream);
  }
}

void LaunchCodedExpertsDown(const LinearOperands& operands, const ExpertMatrices& weights,
                            const ExpertsPass& pass, Stream stream) {
  if (weights.format == WeightFormat::kInt8) {
    LaunchDown(CodesOf<8>(operands, weights), weights, pass, stream);
  } else {
    LaunchDown(CodesOf<4>(operands, weights), weights, pass, stream);
  }
}

}  // namespace tandem::kernels::K_WORLD
