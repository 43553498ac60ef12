// Attention over K and V in turbo3.
#include "kernels/cuda/attention_direct.h"
#include "kernels/cuda/attention_split.h"

namespace tandem::kernels::K_WORLD {

template SplitKernel SplitKernelOf<kTurbo3Kv, kTurbo3Kv>(int head_dim, AttentionGrain grain);
template DirectKernel DirectKernelOf<kTurbo3Kv, kTurbo3Kv>(int head_dim);

}  // namespace tandem::kernels::K_WORLD
