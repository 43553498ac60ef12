// Linear, GeGLU and expert products as plain loops: what "correct" means for every backend.
//
// Sums are f64 with one rounding per stored value.
#pragma once

#include "kernels/ops.h"

namespace tandem::kernels {

// How activations enter a product: as they are, or rounded to bf16 first.
enum class Operands { kF32, kBf16 };

void LinearReference(const LinearArgs& args, Operands operands);
void LinearClustersReference(const LinearClustersArgs& args, Operands operands);
void LinearGegluReference(const LinearGegluArgs& args, Operands operands);
// The values between the two products of an expert are stored as f32.
void ExpertsReference(const ExpertsArgs& args, Operands operands);

}  // namespace tandem::kernels
