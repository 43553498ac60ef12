// Linear, cluster, GeGLU and expert products of the CPU backend at every instruction-set level.
#pragma once

#include "kernels/cpu/cpu_backend.h"
#include "kernels/ops.h"

namespace tandem::kernels {

// Sets linear, linear_clusters, linear_geglu and experts.
void FillLinearOps(CpuIsa isa, Ops& ops);

}  // namespace tandem::kernels
