// The life of a block table.
#include "kvcache/block_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "kvcache/block_pool.h"

namespace tandem::kvcache {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(BlockTableTest, GrowsByWholeBlocksAsPositionsNeedThem) {
  BlockPool pool(8);
  BlockTable table;
  EXPECT_TRUE(Grow(table, pool, 4, 1));
  EXPECT_THAT(table.blocks, ElementsAre(0));
  EXPECT_TRUE(Grow(table, pool, 4, 4));  // still the first block
  EXPECT_THAT(table.blocks, ElementsAre(0));
  EXPECT_TRUE(Grow(table, pool, 4, 9));
  EXPECT_THAT(table.blocks, ElementsAre(0, 1, 2));
  EXPECT_TRUE(Grow(table, pool, 4, 2));  // never shrinks
  EXPECT_EQ(table.num_held(), 3);
}

TEST(BlockTableTest, GrowthThatDoesNotFitChangesNothing) {
  BlockPool pool(2);
  BlockTable table;
  ASSERT_TRUE(Grow(table, pool, 4, 4));
  EXPECT_FALSE(Grow(table, pool, 4, 12));
  EXPECT_THAT(table.blocks, ElementsAre(0));
  EXPECT_EQ(pool.num_free(), 1);
}

TEST(BlockTableTest, GrowsIntoCachedBlocks) {
  // Given a pool of two blocks that are both cached.
  BlockPool pool(2);
  BlockTable table;
  ASSERT_TRUE(Grow(table, pool, 4, 8));
  const BlockKey root = RootKey("", "");
  pool.Publish(table.blocks[0], ChildKey(root, std::vector<int32_t>{1}));
  pool.Publish(table.blocks[1], ChildKey(root, std::vector<int32_t>{2}));
  Free(table, pool);
  ASSERT_EQ(pool.num_cached(), 2);
  // When another sequence grows, it gets them both.
  EXPECT_TRUE(Grow(table, pool, 4, 8));
  EXPECT_EQ(pool.num_evicted(), 2);
  EXPECT_FALSE(Grow(table, pool, 4, 9));
}

TEST(BlockTableTest, ReleasesABlockOnlyWhenItsLastPositionIsOutOfSight) {
  // Given three blocks of four positions.
  BlockPool pool(3);
  BlockTable table;
  ASSERT_TRUE(Grow(table, pool, 4, 12));
  // When position 3 can still be seen, nothing happens.
  EXPECT_EQ(ReleaseBelow(table, pool, 4, 3), 0);
  EXPECT_THAT(table.blocks, ElementsAre(0, 1, 2));
  // When 4 is the first visible one, the first block goes; the others keep their index.
  EXPECT_EQ(ReleaseBelow(table, pool, 4, 4), 1);
  EXPECT_THAT(table.blocks, ElementsAre(-1, 1, 2));
  EXPECT_EQ(table.num_held(), 2);
  EXPECT_EQ(ReleaseBelow(table, pool, 4, 7), 0);
  EXPECT_EQ(pool.num_free(), 1);
}

TEST(BlockTableTest, ReleasingNeverGoesPastTheTable) {
  BlockPool pool(2);
  BlockTable table;
  ASSERT_TRUE(Grow(table, pool, 4, 8));
  EXPECT_EQ(ReleaseBelow(table, pool, 4, 1000), 2);
  EXPECT_THAT(table.blocks, ElementsAre(-1, -1));
  EXPECT_EQ(pool.num_free(), 2);
}

TEST(BlockTableTest, TruncatingGivesBackWholeBlocksBehindTheLastPosition) {
  // Given four blocks of four positions, grown twice.
  BlockPool pool(6);
  BlockTable table;
  ASSERT_TRUE(Grow(table, pool, 4, 8));
  ASSERT_TRUE(Grow(table, pool, 4, 16));
  // When positions below 9 stay, then so does the block that holds the last of them.
  Truncate(table, pool, 4, 9);
  EXPECT_THAT(table.blocks, ElementsAre(0, 1, 2));
  Truncate(table, pool, 4, 9);
  EXPECT_EQ(pool.num_free(), 3);
  Truncate(table, pool, 4, 8);
  EXPECT_THAT(table.blocks, ElementsAre(0, 1));
  // And growing again takes the same ones.
  ASSERT_TRUE(Grow(table, pool, 4, 16));
  EXPECT_THAT(table.blocks, ElementsAre(0, 1, 2, 3));
  Truncate(table, pool, 4, 100);
  EXPECT_EQ(table.num_held(), 4);
  Truncate(table, pool, 4, 0);
  EXPECT_THAT(table.blocks, IsEmpty());
  EXPECT_EQ(pool.num_free(), 6);
}

TEST(BlockTableTest, TruncatingLeavesWhatWasReleasedBelowReleased) {
  BlockPool pool(4);
  BlockTable table;
  ASSERT_TRUE(Grow(table, pool, 4, 16));
  ReleaseBelow(table, pool, 4, 8);
  Truncate(table, pool, 4, 12);
  EXPECT_THAT(table.blocks, ElementsAre(-1, -1, 2));
  EXPECT_EQ(pool.num_free(), 3);
  Truncate(table, pool, 4, 4);  // into what is released: nothing is held any more
  EXPECT_THAT(table.blocks, ElementsAre(-1, -1));
  EXPECT_EQ(pool.num_free(), 4);
  Free(table, pool);
  EXPECT_EQ(pool.num_free(), 4);
}

TEST(BlockTableTest, FreeingReturnsWhatIsHeldAndNothingTwice) {
  BlockPool pool(4);
  BlockTable table;
  ASSERT_TRUE(Grow(table, pool, 4, 16));
  ReleaseBelow(table, pool, 4, 8);
  Free(table, pool);
  EXPECT_EQ(pool.num_free(), 4);
  EXPECT_THAT(table.blocks, IsEmpty());
  EXPECT_EQ(table.first_held, 0);
  // And the table can be used again.
  EXPECT_TRUE(Grow(table, pool, 4, 4));
  EXPECT_EQ(table.num_held(), 1);
}

}  // namespace
}  // namespace tandem::kvcache
