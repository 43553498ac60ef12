// Attention over every pair of formats without instances of its own.
#include "kernels/cuda/attention_direct.h"
#include "kernels/cuda/attention_split.h"

namespace tandem::kernels::K_WORLD {

template SplitKernel SplitKernelOf<kAnyFormat, kAnyFormat>(int head_dim, AttentionGrain grain);
template DirectKernel DirectKernelOf<kAnyFormat, kAnyFormat>(int head_dim);

}  // namespace tandem::kernels::K_WORLD
