// Seeded values in place of a checkpoint, for measuring published shapes.
//
// Promise   A value depends on the seed, the tensor's name and its place in it; not on threads or
//           on what else is filled.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/fill_weights.h"
#include "kernels/ops.h"
#include "kernels/types.h"

namespace tandem::engine {

// Matrices uniform with a variance of one over their inputs, vectors of ones, token ids in order.
TensorSource DummySource(uint64_t seed, const kernels::Ops& ops);

// Values [first, first + count) of a tensor, uniform with a variance of 1 / inputs.
void FillDummyValues(const std::string& name, uint64_t seed, size_t first, size_t count, int inputs,
                     const kernels::Ops& ops, kernels::Bf16* values);

}  // namespace tandem::engine
