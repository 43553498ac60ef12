// attention_split.h for K and V in q8.
#include "kernels/cuda/attention_split.h"

namespace tandem::kernels::K_WORLD {

SplitKernel SplitKernelQ8(int head_dim, AttentionGrain grain) {
  constexpr int kFormat = static_cast<int>(KvFormat::kQ8);
  return ChooseSplitKernel<kFormat, kFormat>(head_dim, grain);
}

}  // namespace tandem::kernels::K_WORLD
