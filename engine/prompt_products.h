// The products that prompt rows run through, for a backend that wants to know them beforehand.
#pragma once

#include <vector>

#include "engine/weights.h"
#include "kernels/cuda/cuda_backend.h"

namespace tandem::engine {

// Each shape once.
std::vector<kernels::PromptProduct> PromptProducts(const Weights& weights);

}  // namespace tandem::engine
