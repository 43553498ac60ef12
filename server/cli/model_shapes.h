// The shapes that kernels of a device must have been built for, before a model runs there.
#pragma once

#include <vector>

#include "engine/assistant_config.h"
#include "engine/model_config.h"
#include "kernels/cuda/cuda_backend.h"

namespace tandem::server {

// Named as config.json names them; attention is asked of Ops::supports.
std::vector<kernels::ShapeNeed> ShapesOf(const engine::ModelConfig& config);
std::vector<kernels::ShapeNeed> ShapesOf(const engine::AssistantConfig& config);

}  // namespace tandem::server
