// attention_split.h for K and V in bf16.
#include "kernels/cuda/attention_split.h"

namespace tandem::kernels::K_WORLD {

SplitKernel SplitKernelBf16(int head_dim, AttentionGrain grain) {
  constexpr int kFormat = static_cast<int>(KvFormat::kBf16);
  return ChooseSplitKernel<kFormat, kFormat>(head_dim, grain);
}

}  // namespace tandem::kernels::K_WORLD
