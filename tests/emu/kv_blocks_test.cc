// Whole KV blocks on CUDA: scales zeroed, blocks copied.
#include "kernels/cuda/kv_blocks.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/kv_pools.h"
#include "tests/emu/schedules.h"
#include "tests/kernels/kv_rows.h"
#include "tests/kernels/paged_kv.h"

namespace tandem::kernels {
namespace {

TEST(ZeroKvScalesTest, ZeroesTheScalesOfTheNamedBlocksAndNothingElse) {
  int variant = 0;
  for (const KvFormat k_format : kDeviceFormats) {
    for (const KvFormat v_format : kDeviceFormats) {
      const KvShape shape = {.num_kv_heads = 3,
                             .log2_block_tokens = 4 + variant++ % 3,
                             .k_format = k_format,
                             .v_format = v_format};
      SCOPED_TRACE(NameOf(k_format) + "/" + NameOf(v_format));
      PagedKv kv(shape, 4), want(shape, 4);
      for (const int block : {2, 0}) {
        for (int head = 0; head < shape.num_kv_heads; ++head) {
          for (int cell = 0; cell < kv.block_tokens(); ++cell) {
            for (const KvRow& row : {want.K(block, head, cell), want.V(block, head, cell)}) {
              if (row.scale != nullptr) row.scale->bits = 0;
            }
          }
        }
      }
      const DeviceVector<int32_t> blocks = {2, -1, 0};
      KernelStream stream;
      K_WORLD::ZeroKvScales(
          {.kv = kv.view(), .num_kv_heads = 3, .blocks = blocks.data(), .count = 3}, stream.get());
      ASSERT_EQ(stream.TakeError(), "");
      EXPECT_TRUE(SamePools(kv, want));
      const uint64_t sides = KvHasScale(k_format) + KvHasScale(v_format);
      const uint64_t written = stream.TakeTraffic().written;
      if (kCountsTraffic) {
        EXPECT_EQ(written, 2 * 3 * sides * 2u * kv.block_tokens());
      }
    }
  }
}

TEST(CopyKvBlocksTest, CopiesEveryByteOfTheNamedBlocks) {
  for (const size_t block_bytes : {size_t{128}, size_t{16384}, size_t{16384 + 128}}) {
    const int num_blocks = 6;
    DeviceVector<std::byte> pool(num_blocks * block_bytes + 16);
    std::byte* base = pool.data();
    base += (16 - reinterpret_cast<uintptr_t>(base) % 16) % 16;
    for (size_t i = 0; i < num_blocks * block_bytes; ++i) {
      base[i] = static_cast<std::byte>(i * 37 / 11 + i / block_bytes);
    }
    const DeviceVector<std::byte> before(base, base + num_blocks * block_bytes);
    const DeviceVector<int32_t> copies = {1, 4, -1, 3, 5, 0};
    for (const emu::Schedule& schedule : AllSchedules()) {
      std::memcpy(base, before.data(), before.size());
      KernelStream stream(schedule, /*os_threads=*/2);
      K_WORLD::CopyKvBlocks(
          {.base = base, .block_bytes = block_bytes, .copies = copies.data(), .count = 3},
          stream.get());
      ASSERT_EQ(stream.TakeError(), "");
      const int from[] = {5, 1, 2, 3, 1, 5};
      for (int b = 0; b < num_blocks; ++b) {
        EXPECT_EQ(
            std::memcmp(base + b * block_bytes, before.data() + from[b] * block_bytes, block_bytes),
            0)
            << "block " << b << " of " << block_bytes;
      }
      const uint64_t written = stream.TakeTraffic().written;
      if (kCountsTraffic) {
        EXPECT_EQ(written, 2 * block_bytes);
      }
    }
  }
}

TEST(KvBlocksTest, NothingToDoIsNoWork) {
  KernelStream stream;
  K_WORLD::ZeroKvScales({.kv = {.k_format = KvFormat::kQ8}, .num_kv_heads = 2}, stream.get());
  K_WORLD::CopyKvBlocks({.block_bytes = 128}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
