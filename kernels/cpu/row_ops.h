// Row operations of the CPU backend at every instruction-set level.
#pragma once

#include "kernels/cpu/cpu_backend.h"
#include "kernels/ops.h"

namespace tandem::kernels {

// Sets embed, ple, rms_norm, norm_add, gelu_mul, rope_table, route and softcap.
void FillRowOps(CpuIsa isa, Ops& ops);

}  // namespace tandem::kernels
