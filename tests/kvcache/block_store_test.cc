// The bytes of a pool: views reach every row once, and nothing is touched before it is used.
#include "kvcache/block_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <utility>

namespace tandem::kvcache {
namespace {

using kernels::KvFormat;
using kernels::KvView;

constexpr int kBlockTokens = 16;

GroupLayout TestLayout() {
  return *MakeGroupLayout(kBlockTokens, {{.num_kv_heads = 2, .head_dim = 16},
                                         {.num_kv_heads = 1, .head_dim = 48, .k = KvFormat::kF32}});
}

// As kernels address a row (kernels/types.h).
std::byte* Row(const KvView& view, int head_dim, int block, int head, int cell, bool v) {
  const size_t row_bytes = kernels::KvRowBytes(v ? view.v_format : view.k_format, head_dim);
  return view.base + block * view.block_stride + head * view.head_stride + (v ? view.v_offset : 0) +
         cell * row_bytes;
}

// Calls fn(row, bytes) for every row of the store, in one fixed order.
template <typename Fn>
void ForEachRow(const BlockStore& store, Fn fn) {
  for (int block = 0; block < store.num_blocks(); ++block) {
    for (size_t layer = 0; layer < store.layout().layers.size(); ++layer) {
      const LayerKv& kv = store.layout().layers[layer];
      const KvView view = store.View(static_cast<int>(layer));
      for (int head = 0; head < kv.num_kv_heads; ++head) {
        for (int cell = 0; cell < kBlockTokens; ++cell) {
          for (const bool v : {false, true}) {
            fn(Row(view, kv.head_dim, block, head, cell, v),
               kernels::KvRowBytes(v ? kv.v : kv.k, kv.head_dim));
          }
        }
      }
    }
  }
}

TEST(BlockStoreTest, RowsDoNotOverlapAndStayInsideThePool) {
  // Given a store of three blocks.
  absl::StatusOr<BlockStore> store = BlockStore::Create(TestLayout(), 3);
  ASSERT_TRUE(store.ok()) << store.status();
  // When every row is filled with a mark of its own.
  int mark = 0;
  size_t row_bytes_total = 0;
  ForEachRow(*store, [&](std::byte* row, size_t bytes) {
    std::memset(row, mark++ % 251, bytes);
    row_bytes_total += bytes;
  });
  // Then no row was overwritten by a later one.
  mark = 0;
  ForEachRow(*store, [&](std::byte* row, size_t bytes) {
    const auto expected = static_cast<std::byte>(mark++ % 251);
    EXPECT_EQ(row[0], expected);
    EXPECT_EQ(row[bytes - 1], expected);
  });
  EXPECT_LE(row_bytes_total, store->bytes());
  EXPECT_EQ(store->bytes(), 3 * store->layout().block_bytes);
}

TEST(BlockStoreTest, AFreshPoolReadsAsZero) {
  absl::StatusOr<BlockStore> store = BlockStore::Create(TestLayout(), 2);
  ASSERT_TRUE(store.ok()) << store.status();
  ForEachRow(*store, [](const std::byte* row, size_t) { EXPECT_EQ(row[0], std::byte{0}); });
}

TEST(BlockStoreTest, PreparingABlockLeavesUnscaledRowsAlone) {
  // Given a pool full of old rows.
  absl::StatusOr<BlockStore> store = BlockStore::Create(TestLayout(), 2);
  ASSERT_TRUE(store.ok()) << store.status();
  ForEachRow(*store, [](std::byte* row, size_t bytes) { std::memset(row, 7, bytes); });
  // When a block is handed out again.
  store->PrepareBlock(1);
  // Then its codes stay as they are: bf16 and f32 have no scales to clear.
  ForEachRow(*store, [](const std::byte* row, size_t bytes) {
    EXPECT_EQ(row[0], std::byte{7});
    EXPECT_EQ(row[bytes - 1], std::byte{7});
  });
}

TEST(BlockStoreTest, APoolFarLargerThanMemoryCostsNothingUntilTouched) {
  // Given 4 TiB of blocks, addressed with 64 bits.
  const GroupLayout layout =
      *MakeGroupLayout(64, std::vector<LayerKv>(64, LayerKv{.num_kv_heads = 8, .head_dim = 512}));
  const auto blocks = static_cast<int32_t>((size_t{1} << 42) / layout.block_bytes);
  absl::StatusOr<BlockStore> store = BlockStore::Create(layout, blocks);
  if (!store.ok()) GTEST_SKIP() << "address space is limited here: " << store.status();
  // When the last row of the last block is written.
  std::byte* row = Row(store->View(63), 512, blocks - 1, 7, 63, true);
  *row = std::byte{9};
  // Then it lies inside the pool, past 2^41.
  EXPECT_EQ(*row, std::byte{9});
  EXPECT_GT(row - store->View(0).base, ptrdiff_t{1} << 41);
  EXPECT_LT(static_cast<size_t>(row - store->View(0).base), store->bytes());
}

TEST(BlockStoreTest, MovingKeepsTheBytesWithTheirNewOwner) {
  absl::StatusOr<BlockStore> store = BlockStore::Create(TestLayout(), 2);
  ASSERT_TRUE(store.ok()) << store.status();
  *store->View(0).base = std::byte{5};
  BlockStore moved = *std::move(store);
  EXPECT_EQ(*moved.View(0).base, std::byte{5});
  absl::StatusOr<BlockStore> other = BlockStore::Create(TestLayout(), 4);
  ASSERT_TRUE(other.ok()) << other.status();
  *other = std::move(moved);
  EXPECT_EQ(*other->View(0).base, std::byte{5});
  EXPECT_EQ(other->num_blocks(), 2);
}

TEST(BlockStoreTest, RefusesSizesThatCannotBe) {
  EXPECT_EQ(BlockStore::Create(TestLayout(), 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(BlockStore::Create(TestLayout(), -1).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(BlockStore::Create(GroupLayout{}, 1).status().code(),
            absl::StatusCode::kInvalidArgument);
  GroupLayout huge = TestLayout();
  huge.block_bytes = size_t{1} << 40;
  EXPECT_EQ(BlockStore::Create(huge, INT32_MAX).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::kvcache
