// How much of a sequence the pools have, and block tables made of it.
#include "kvcache/prefix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <climits>
#include <vector>

namespace tandem::kvcache {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int kBlockTokens = 4;

std::vector<BlockKey> Keys(int count) {
  std::vector<BlockKey> keys;
  BlockKey parent = RootKey("", "");
  for (int32_t i = 0; i < count; ++i) {
    parent = ChildKey(parent, std::vector<int32_t>{i});
    keys.push_back(parent);
  }
  return keys;
}

// Pools that hold some of eight blocks of one sequence, cached; block ids are logical numbers.
struct Rig {
  explicit Rig(int window) : pools{&sliding, &full, kBlockTokens, window} {
    for (int i = 0; i < 8; ++i) {
      sliding.Allocate();
      full.Allocate();
    }
  }
  void Have(BlockPool& pool, const std::vector<int>& blocks) {
    for (const int block : blocks) {
      pool.Publish(block, keys[block]);
      pool.Release(block);
    }
  }
  PrefixHit Find(int max_tokens = INT_MAX) const { return FindPrefix(pools, keys, max_tokens); }

  BlockPool sliding{8};
  BlockPool full{8};
  PrefixPools pools;
  std::vector<BlockKey> keys = Keys(8);
};

TEST(FindPrefixTest, TakesTheWholeChainAndTheLastWindow) {
  // Given a window of 6: behind 20 tokens the row at 20 sees 15 to 19, blocks 3 and 4.
  Rig rig(6);
  rig.Have(rig.full, {0, 1, 2, 3, 4});
  rig.Have(rig.sliding, {3, 4});
  const PrefixHit hit = rig.Find();
  EXPECT_EQ(hit.tokens, 20);
  EXPECT_EQ(hit.lost_to_window, 0);
  EXPECT_THAT(hit.unheld, ElementsAre(2, 5));
}

TEST(FindPrefixTest, EndsWhereTheChainBreaks) {
  Rig rig(100);
  rig.Have(rig.full, {0, 1, 3, 4});
  rig.Have(rig.sliding, {0, 1, 2, 3, 4});
  EXPECT_EQ(rig.Find().tokens, 8);
  EXPECT_EQ(rig.Find().lost_to_window, 0);
}

TEST(FindPrefixTest, FindsNothingWithoutTheFirstBlock) {
  Rig rig(2);
  rig.Have(rig.full, {1, 2, 3});
  rig.Have(rig.sliding, {0, 1, 2, 3});
  EXPECT_EQ(rig.Find().tokens, 0);
  EXPECT_THAT(rig.Find().unheld, ElementsAre(0, 0));
}

TEST(FindPrefixTest, IsCutWhereAWindowIsNoLongerWhole) {
  // Given a window of 6 and a sliding group that lost block 4.
  Rig rig(6);
  rig.Have(rig.full, {0, 1, 2, 3, 4, 5});
  rig.Have(rig.sliding, {2, 3, 5});
  // Then prefixes that see block 4 are out: 24 and 20 tokens. 16 see 11 to 15, blocks 2 and 3.
  const PrefixHit hit = rig.Find();
  EXPECT_EQ(hit.tokens, 16);
  EXPECT_EQ(hit.lost_to_window, 8);
  EXPECT_THAT(hit.unheld, ElementsAre(2, 4));
}

TEST(FindPrefixTest, ANearEndOfTheWindowMayBeMissing) {
  // Given a window of 5: the row at 8 sees 4 to 8, so block 0 is of no use to it.
  Rig rig(5);
  rig.Have(rig.full, {0, 1});
  rig.Have(rig.sliding, {1});
  EXPECT_EQ(rig.Find().tokens, 8);
  // And with a window of 6 it is of use: it sees position 3.
  rig.pools.window = 6;
  EXPECT_EQ(rig.Find().tokens, 0);
  EXPECT_EQ(rig.Find().lost_to_window, 8);
}

TEST(FindPrefixTest, AWindowOfOneSeesNoEarlierRow) {
  Rig rig(1);
  rig.Have(rig.full, {0, 1, 2});
  EXPECT_EQ(rig.Find().tokens, 12);
  EXPECT_THAT(rig.Find().unheld, ElementsAre(0, 3));
}

TEST(FindPrefixTest, StopsAtTheLimitInWholeBlocks) {
  Rig rig(6);
  rig.Have(rig.full, {0, 1, 2, 3});
  rig.Have(rig.sliding, {0, 1, 2, 3});
  EXPECT_EQ(rig.Find(16).tokens, 16);
  EXPECT_EQ(rig.Find(15).tokens, 12);
  EXPECT_EQ(rig.Find(3).tokens, 0);
  EXPECT_EQ(rig.Find(0).tokens, 0);
  EXPECT_EQ(rig.Find(-1).tokens, 0);
  EXPECT_EQ(FindPrefix(rig.pools, {}, 100).tokens, 0);
  EXPECT_EQ(FindPrefix(rig.pools, std::span(rig.keys).first(1), 100).tokens, 4);
}

TEST(FindPrefixTest, ModelsOfOneGroupNeedOnlyThat) {
  Rig rig(6);
  rig.Have(rig.full, {0, 1, 2});
  rig.Have(rig.sliding, {3, 4});
  // Without sliding layers the chain is all.
  EXPECT_EQ(FindPrefix({nullptr, &rig.full, kBlockTokens, 0}, rig.keys, 100).tokens, 12);
  // Without full layers the last window is: nothing says that earlier blocks ever were there.
  const PrefixHit hit = FindPrefix({&rig.sliding, nullptr, kBlockTokens, 6}, rig.keys, 100);
  EXPECT_EQ(hit.tokens, 20);
  EXPECT_EQ(hit.lost_to_window, 0);
  EXPECT_THAT(hit.unheld, ElementsAre(2, 0));
}

TEST(FindPrefixTest, CountsOnlyBlocksThatNobodyHolds) {
  Rig rig(6);
  rig.Have(rig.full, {0, 1, 2});
  rig.Have(rig.sliding, {0, 1, 2});
  rig.full.AddReference(0);
  rig.full.AddReference(1);
  rig.sliding.AddReference(2);
  EXPECT_THAT(rig.Find().unheld, ElementsAre(1, 1));
}

TEST(TakePrefixTest, HoldsTheChainAndTheLastWindow) {
  // Given a hit of 16 tokens, one of whose blocks somebody holds.
  Rig rig(6);
  rig.Have(rig.full, {0, 1, 2, 3});
  rig.Have(rig.sliding, {0, 1, 2, 3});
  rig.full.AddReference(1);
  const PrefixHit hit = rig.Find();
  ASSERT_EQ(hit.tokens, 16);
  const int32_t free_before[2] = {rig.sliding.num_free(), rig.full.num_free()};
  // When it is taken.
  BlockTable sliding, full;
  TakePrefix(rig.pools, rig.keys, hit.tokens, &sliding, &full);
  // Then the tables stand as if the rows had been computed: entries by position, none below the
  // window; and the pools have as many less as the hit said.
  EXPECT_THAT(full.blocks, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(full.first_held, 0);
  EXPECT_THAT(sliding.blocks, ElementsAre(-1, -1, 2, 3));
  EXPECT_EQ(sliding.first_held, 2);
  EXPECT_EQ(rig.full.references(1), 2);
  EXPECT_EQ(rig.sliding.references(0), 0);
  EXPECT_EQ(free_before[0] - rig.sliding.num_free(), hit.unheld[0]);
  EXPECT_EQ(free_before[1] - rig.full.num_free(), hit.unheld[1]);
  // And freeing them puts everything back.
  Free(sliding, rig.sliding);
  Free(full, rig.full);
  EXPECT_EQ(rig.sliding.num_free(), free_before[0]);
  EXPECT_EQ(rig.full.num_free(), free_before[1]);
  EXPECT_EQ(rig.Find().tokens, 16);
}

TEST(TakePrefixTest, APrefixOfNothingLeavesEmptyTables) {
  Rig rig(6);
  BlockTable sliding, full;
  TakePrefix(rig.pools, rig.keys, 0, &sliding, &full);
  EXPECT_THAT(sliding.blocks, IsEmpty());
  EXPECT_THAT(full.blocks, IsEmpty());
}

TEST(TakePrefixTest, LeavesTheTableOfAnAbsentGroupOut) {
  Rig rig(6);
  rig.Have(rig.full, {0, 1});
  BlockTable full;
  TakePrefix({nullptr, &rig.full, kBlockTokens, 0}, rig.keys, 8, nullptr, &full);
  EXPECT_THAT(full.blocks, ElementsAre(0, 1));
}

}  // namespace
}  // namespace tandem::kvcache
