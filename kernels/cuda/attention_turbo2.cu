// Attention over K and V in turbo2.
#include "kernels/cuda/attention_direct.h"
#include "kernels/cuda/attention_split.h"

namespace tandem::kernels::K_WORLD {

template SplitKernel SplitKernelOf<kTurbo2Kv, kTurbo2Kv>(int head_dim, AttentionGrain grain);
template DirectKernel DirectKernelOf<kTurbo2Kv, kTurbo2Kv>(int head_dim);

}  // namespace tandem::kernels::K_WORLD
