// Attention over K in q8, V in turbo4.
#include "kernels/cuda/attention_direct.h"
#include "kernels/cuda/attention_split.h"

namespace tandem::kernels::K_WORLD {

template SplitKernel SplitKernelOf<kQ8Kv, kTurbo4Kv>(int head_dim, AttentionGrain grain);
template DirectKernel DirectKernelOf<kQ8Kv, kTurbo4Kv>(int head_dim);

}  // namespace tandem::kernels::K_WORLD
