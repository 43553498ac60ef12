// Attention over K and V in bf16.
#include "kernels/cuda/attention_direct.h"
#include "kernels/cuda/attention_split.h"

namespace tandem::kernels::K_WORLD {

template SplitKernel SplitKernelOf<kBf16Kv, kBf16Kv>(int head_dim, AttentionGrain grain);
template DirectKernel DirectKernelOf<kBf16Kv, kBf16Kv>(int head_dim);

}  // namespace tandem::kernels::K_WORLD
