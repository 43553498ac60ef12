// attention_split.h for K and V in turbo4.
#include "kernels/cuda/attention_split.h"

namespace tandem::kernels::K_WORLD {

SplitKernel SplitKernelTurbo4(int head_dim, AttentionGrain grain) {
  constexpr int kFormat = static_cast<int>(KvFormat::kTurbo4);
  return ChooseSplitKernel<kFormat, kFormat>(head_dim, grain);
}

}  // namespace tandem::kernels::K_WORLD
