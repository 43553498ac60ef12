// KV pools as tests of CUDA kernels compare them.
#pragma once

#include <cstring>

#include "kernels/types.h"
#include "tests/kernels/paged_kv.h"

namespace tandem::kernels {

// What kernels store: every format but kF32.
constexpr KvFormat kDeviceFormats[] = {KvFormat::kBf16,   KvFormat::kF16,    KvFormat::kQ8,
                                       KvFormat::kTurbo4, KvFormat::kTurbo3, KvFormat::kTurbo2};

// To the last byte, those between the rows too; both of the same shape and number of blocks.
inline bool SamePools(const PagedKv& a, const PagedKv& b) {
  return std::memcmp(a.view().base, b.view().base, a.bytes().size() - 128) == 0;
}

}  // namespace tandem::kernels
