// Whether kernels were built for a shape of a model.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// Unimplemented, naming the shape, its value and what there is; `device` says who lacks it.
absl::Status CheckShape(const ShapeNeed& need, const std::string& device);

}  // namespace tandem::kernels::K_WORLD
