// The pool's life of a block: free, held, cached and found again, evicted, flushed.
#include "kvcache/block_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "kvcache/block_table.h"

namespace tandem::kvcache {
namespace {

using testing::ElementsAre;

BlockKey Key(int32_t n) { return ChildKey(RootKey("", ""), std::vector<int32_t>{n}); }

// Blocks that were published with Key(0), Key(1), ... and released in this order.
std::vector<int32_t> CacheBlocks(BlockPool& pool, int count) {
  std::vector<int32_t> blocks;
  for (int i = 0; i < count; ++i) {
    blocks.push_back(pool.Allocate());
    pool.Publish(blocks.back(), Key(i));
  }
  for (const int32_t block : blocks) pool.Release(block);
  return blocks;
}

TEST(BlockPoolTest, HandsOutEveryBlockOnceThenNone) {
  BlockPool pool(3);
  std::set<int32_t> blocks;
  for (int i = 0; i < 3; ++i) blocks.insert(pool.Allocate());
  EXPECT_THAT(blocks, ElementsAre(0, 1, 2));
  EXPECT_EQ(pool.Allocate(), -1);
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_EQ(pool.num_used(), 3);
}

TEST(BlockPoolTest, ASharedBlockIsFreeOnlyAfterItsLastHolderLeaves) {
  // Given a block with two holders.
  BlockPool pool(1);
  const int32_t block = pool.Allocate();
  pool.AddReference(block);
  EXPECT_EQ(pool.references(block), 2);
  // When one of them leaves, it stays; when the other leaves, it is free.
  pool.Release(block);
  EXPECT_EQ(pool.num_free(), 0);
  pool.Release(block);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_EQ(pool.Allocate(), block);
  EXPECT_EQ(pool.references(block), 1);
}

TEST(BlockPoolTest, APoolOfAnAbsentGroupIsEmpty) {
  BlockPool pool(0);
  EXPECT_EQ(pool.num_blocks(), 0);
  EXPECT_EQ(pool.Allocate(), -1);
  EXPECT_EQ(pool.FlushCached(), 0);
}

TEST(BlockPoolTest, APublishedBlockIsFoundWhileHeldAndAfter) {
  BlockPool pool(2);
  const int32_t block = pool.Allocate();
  EXPECT_EQ(pool.Find(Key(1)), -1);
  pool.Publish(block, Key(1));
  EXPECT_EQ(pool.Find(Key(1)), block);
  EXPECT_EQ(pool.num_cached(), 0);
  // When its holder leaves, it counts as free and is still found.
  pool.Release(block);
  EXPECT_EQ(pool.Find(Key(1)), block);
  EXPECT_EQ(pool.num_cached(), 1);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_EQ(pool.num_used(), 0);
}

TEST(BlockPoolTest, ACachedBlockThatIsTakenAgainIsNobodyElses) {
  // Given a pool whose only block is cached.
  BlockPool pool(1);
  const int32_t block = CacheBlocks(pool, 1)[0];
  // When somebody takes it by its key.
  pool.AddReference(block);
  // Then it can not be evicted, and goes back to the cache afterwards.
  EXPECT_EQ(pool.num_cached(), 0);
  EXPECT_EQ(pool.Allocate(), -1);
  EXPECT_EQ(pool.Find(Key(0)), block);
  pool.Release(block);
  EXPECT_EQ(pool.num_cached(), 1);
  EXPECT_EQ(pool.num_evicted(), 0);
}

TEST(BlockPoolTest, FreeBlocksGoBeforeCachedOnesAndTheseInOrderOfRelease) {
  // Given four blocks, three of them cached.
  BlockPool pool(4);
  const std::vector<int32_t> cached = CacheBlocks(pool, 3);
  // And the oldest of these was used once more since.
  pool.AddReference(cached[0]);
  pool.Release(cached[0]);
  // When all are allocated.
  std::vector<int32_t> order;
  for (int i = 0; i < 4; ++i) order.push_back(pool.Allocate());
  // Then the free one went first, then the cached ones, the least recently released first.
  EXPECT_THAT(order, ElementsAre(3, cached[1], cached[2], cached[0]));
  EXPECT_EQ(pool.num_evicted(), 3);
  EXPECT_EQ(pool.num_cached(), 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(pool.Find(Key(i)), -1);
  EXPECT_EQ(pool.Allocate(), -1);
}

TEST(BlockPoolTest, AnyCachedBlockCanLeaveTheMiddleOfTheOrder) {
  BlockPool pool(5);
  const std::vector<int32_t> cached = CacheBlocks(pool, 5);
  pool.AddReference(cached[2]);
  pool.AddReference(cached[4]);
  pool.AddReference(cached[0]);
  EXPECT_EQ(pool.Allocate(), cached[1]);
  EXPECT_EQ(pool.Allocate(), cached[3]);
  EXPECT_EQ(pool.Allocate(), -1);
}

TEST(BlockPoolTest, AnEvictedBlockIsFreeForAnotherKey) {
  BlockPool pool(1);
  CacheBlocks(pool, 1);
  const int32_t block = pool.Allocate();
  EXPECT_FALSE(pool.has_key(block));
  pool.Publish(block, Key(7));
  EXPECT_EQ(pool.Find(Key(7)), block);
  EXPECT_EQ(pool.Find(Key(0)), -1);
}

TEST(BlockPoolTest, TheFirstBlockOfAKeyIsKept) {
  // Given two sequences that computed the same block side by side.
  BlockPool pool(2);
  const int32_t first = pool.Allocate();
  const int32_t second = pool.Allocate();
  pool.Publish(first, Key(1));
  pool.Publish(second, Key(1));
  EXPECT_EQ(pool.Find(Key(1)), first);
  // Then the second one's is free as soon as it is left.
  pool.Release(second);
  EXPECT_EQ(pool.num_cached(), 0);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_EQ(pool.Find(Key(1)), first);
}

TEST(BlockPoolTest, ABlockKeepsItsFirstKey) {
  BlockPool pool(1);
  const int32_t block = pool.Allocate();
  pool.Publish(block, Key(1));
  pool.Publish(block, Key(2));
  EXPECT_EQ(pool.Find(Key(1)), block);
  EXPECT_EQ(pool.Find(Key(2)), -1);
}

TEST(BlockPoolTest, FlushingForgetsWhatNobodyHolds) {
  // Given three cached blocks, one of which is held again.
  BlockPool pool(3);
  const std::vector<int32_t> blocks = CacheBlocks(pool, 3);
  pool.AddReference(blocks[1]);
  // When the cache is flushed.
  EXPECT_EQ(pool.FlushCached(), 2);
  // Then the others are free, without a key, and not counted as evicted.
  EXPECT_EQ(pool.num_cached(), 0);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_EQ(pool.Find(Key(0)), -1);
  EXPECT_EQ(pool.Find(Key(2)), -1);
  EXPECT_EQ(pool.Find(Key(1)), blocks[1]);
  EXPECT_EQ(pool.num_evicted(), 0);
  EXPECT_EQ(pool.Allocate(), blocks[0]);
  EXPECT_EQ(pool.Allocate(), blocks[2]);
  EXPECT_EQ(pool.Allocate(), -1);
}

TEST(BlockPoolTest, AChainDiesFromItsTail) {
  // Given a sequence of four published blocks that ended.
  BlockPool pool(4);
  BlockTable table;
  ASSERT_TRUE(Grow(table, pool, 2, 8));
  const std::vector<int32_t> blocks = table.blocks;
  for (int i = 0; i < 4; ++i) pool.Publish(blocks[i], Key(i));
  Free(table, pool);
  // When room is needed, its last block goes first: what is left is a prefix still.
  for (int left = 3; left >= 0; --left) {
    EXPECT_EQ(pool.Allocate(), blocks[left]);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(pool.Find(Key(i)) >= 0, i < left);
  }
}

}  // namespace
}  // namespace tandem::kvcache
