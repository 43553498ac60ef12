// Kernels of split and direct attention, one source file per pair of formats, so that they compile
// side by side: attention_<K>_<V>.cu, or attention_<both>.cu. attention_any.cu serves all other
// pairs.
#pragma once

#include "kernels/cuda/attention.h"

namespace tandem::kernels::K_WORLD {

template <typename Args>
struct AttentionKernel {
  void (*kernel)(Args) = nullptr;
  int threads = 0;
  size_t shared_bytes = 0;
};
using SplitKernel = AttentionKernel<AttentionSplitArgs>;
using DirectKernel = AttentionKernel<AttentionDirectArgs>;

// Formats as template arguments: a KvFormat, or kAnyFormat, which reads it from the view and takes
// switches that are the same in a whole warp.
constexpr int kAnyFormat = -1;
constexpr int kBf16Kv = static_cast<int>(KvFormat::kBf16);
constexpr int kF16Kv = static_cast<int>(KvFormat::kF16);
constexpr int kQ8Kv = static_cast<int>(KvFormat::kQ8);
constexpr int kTurbo4Kv = static_cast<int>(KvFormat::kTurbo4);
constexpr int kTurbo3Kv = static_cast<int>(KvFormat::kTurbo3);
constexpr int kTurbo2Kv = static_cast<int>(KvFormat::kTurbo2);

template <int kFormat>
K_FN KvFormat FormatOf(KvFormat in_view) {
  return kFormat == kAnyFormat ? in_view : static_cast<KvFormat>(kFormat);
}

// head_dim 256 or 512, m_tiles 1 or 2. Defined in attention_split.h, attention_direct.h.
template <int kKFormat, int kVFormat>
SplitKernel SplitKernelOf(int head_dim, AttentionGrain grain);
template <int kKFormat, int kVFormat>
DirectKernel DirectKernelOf(int head_dim);

}  // namespace tandem::kernels::K_WORLD
