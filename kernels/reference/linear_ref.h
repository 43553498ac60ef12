// Linear, GeGLU and expert products as plain loops: what "correct" means for every backend.
//
// Sums are f64 with one rounding per stored value, but for Operands::kInt8.
#pragma once

#include "kernels/ops.h"

namespace tandem::kernels {

// How activations enter a product: as they are, rounded to bf16 first, or rounded to 8 bits with
// one scale for every 32 of a row. The last is for weights of codes alone: the CPU's own definition
// (cpu/linear_codes.h), sums of f32 included. The others meet such weights as the values that codes
// and scales stand for.
enum class Operands { kF32, kBf16, kInt8 };

// Operands of a CPU product at level kRef.
inline Operands ReferenceOperands(WeightFormat format) {
  return format == WeightFormat::kBf16 ? Operands::kF32 : Operands::kInt8;
}

void LinearReference(const LinearArgs& args, Operands operands);
void LinearClustersReference(const LinearClustersArgs& args, Operands operands);
void LinearGegluReference(const LinearGegluArgs& args, Operands operands);
// The values between the two products of an expert are stored as f32.
void ExpertsReference(const ExpertsArgs& args, Operands operands);

}  // namespace tandem::kernels
