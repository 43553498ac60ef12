// Attention over K in turbo4, V in turbo3.
#include "kernels/cuda/attention_direct.h"
#include "kernels/cuda/attention_split.h"

namespace tandem::kernels::K_WORLD {

template SplitKernel SplitKernelOf<kTurbo4Kv, kTurbo3Kv>(int head_dim, AttentionGrain grain);
template DirectKernel DirectKernelOf<kTurbo4Kv, kTurbo3Kv>(int head_dim);

}  // namespace tandem::kernels::K_WORLD
