// Attention over K and V in q8.
#include "kernels/cuda/attention_direct.h"
#include "kernels/cuda/attention_split.h"

namespace tandem::kernels::K_WORLD {

template SplitKernel SplitKernelOf<kQ8Kv, kQ8Kv>(int head_dim, AttentionGrain grain);
template DirectKernel DirectKernelOf<kQ8Kv, kQ8Kv>(int head_dim);

}  // namespace tandem::kernels::K_WORLD
