// attention_split.h for every pair of formats, chosen by switches that whole warps take.
#include "kernels/cuda/attention_split.h"

namespace tandem::kernels::K_WORLD {

SplitKernel SplitKernelAny(int head_dim, AttentionGrain grain) {
  return ChooseSplitKernel<kAnyFormat, kAnyFormat>(head_dim, grain);
}

}  // namespace tandem::kernels::K_WORLD
