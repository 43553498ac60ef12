// Attention over K and V in f16.
#include "kernels/cuda/attention_direct.h"
#include "kernels/cuda/attention_split.h"

namespace tandem::kernels::K_WORLD {

template SplitKernel SplitKernelOf<kF16Kv, kF16Kv>(int head_dim, AttentionGrain grain);
template DirectKernel DirectKernelOf<kF16Kv, kF16Kv>(int head_dim);

}  // namespace tandem::kernels::K_WORLD
