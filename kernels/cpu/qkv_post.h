// qkv_post of the CPU backend at every instruction-set level.
#pragma once

#include "kernels/cpu/cpu_backend.h"
#include "kernels/ops.h"

namespace tandem::kernels {

// Sets qkv_post.
void FillQkvPostOps(CpuIsa isa, Ops& ops);

}  // namespace tandem::kernels
