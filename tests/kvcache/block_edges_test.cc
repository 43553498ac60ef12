// What becomes of stored rows at the edges of blocks (turboquant 3.7, 6.1 T13): rollback, eviction
// and reuse, copies and forks, for stored formats of every kind. Rows are encoded for real; what
// they hold depends on token and position alone, so two ways to the same tokens must come to the
// same bytes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/kv_row.h"
#include "kernels/reference/kv_row_ref.h"
#include "kvcache/block_pool.h"
#include "kvcache/block_store.h"
#include "kvcache/block_table.h"
#include "kvcache/kv_formats.h"

namespace tandem::kvcache {
namespace {

using kernels::KvFormat;
using kernels::KvRow;
using kernels::KvView;
using Tokens = std::vector<int>;

constexpr int32_t kBlocks = 12;

struct Case {
  const char* pair;
  int block_tokens;
};

// One group of two layers, the last of them protected, and who holds which of its blocks.
struct Rig {
  explicit Rig(const Case& c)
      : block_tokens(c.block_tokens),
        store(BlockStore::Create(MakeLayout(c), kBlocks).value()),
        pool(kBlocks) {
    // A pool in use: whatever a block holds before it is handed out is nobody's business.
    for (int32_t b = 0; b < kBlocks; ++b) {
      std::memset(Bytes(b), 0xa0 + b, store.layout().block_bytes);
    }
  }

  static GroupLayout MakeLayout(const Case& c) {
    const KvPair pair = ParseKvPair(c.pair).value();
    const std::vector<KvPair> pairs =
        LayerFormats({{pair, pair}, 0, 1}, std::vector<int>{0, 0}).value();
    return MakeGroupLayout(c.block_tokens,
                           {{2, 64, pairs[0].k, pairs[0].v}, {1, 128, pairs[1].k, pairs[1].v}})
        .value();
  }

  std::byte* Bytes(int32_t block) {
    return store.View(0).base + block * store.layout().block_bytes;
  }

  // Calls fn(format, head_dim, row) for all rows of one cell, in one fixed order.
  template <typename Fn>
  void ForRows(int32_t block, int cell, Fn fn) {
    for (size_t l = 0; l < store.layout().layers.size(); ++l) {
      const LayerKv& layer = store.layout().layers[l];
      const KvView view = store.View(static_cast<int>(l));
      for (int head = 0; head < layer.num_kv_heads; ++head) {
        fn(layer.k, layer.head_dim, KRowAt(view, block, head, cell, layer.head_dim));
        fn(layer.v, layer.head_dim, VRowAt(view, block, head, cell, layer.head_dim));
      }
    }
  }

  // What a step does first with the last, partly filled block of a prefix.
  void CopyBlock(int32_t from, int32_t to) {
    std::memcpy(store.block(to), store.block(from), store.layout().block_bytes);
  }

  // Stores the rows of `token` as a step does: scales of a fresh block are cleared first.
  void Write(const BlockTable& table, int position, int token) {
    const int32_t block = table.blocks[position / block_tokens];
    const int cell = position % block_tokens;
    if (cell == 0) store.PrepareBlock(block);
    std::mt19937 random(token * 7919 + position);
    std::vector<float> x;
    ForRows(block, cell, [&](KvFormat format, int dim, const KvRow& row) {
      x.resize(dim);
      for (float& value : x) value = static_cast<float>(random() % 2001) / 500.0f - 2.0f;
      kernels::EncodeRowReference(x.data(), format, dim, row);
    });
  }

  void Append(BlockTable& table, Tokens& known, const Tokens& tokens) {
    const int begin = static_cast<int>(known.size());
    ASSERT_TRUE(Grow(table, pool, block_tokens, begin + static_cast<int>(tokens.size())));
    for (const int token : tokens) {
      Write(table, static_cast<int>(known.size()), token);
      known.push_back(token);
    }
  }

  // As after a step whose rows from `size` on were fed rejected tokens.
  void Rollback(BlockTable& table, Tokens& known, int size) {
    known.resize(size);
    Truncate(table, pool, block_tokens, size);
  }

  // All bytes of the rows at `position`, scales included.
  std::string RowBytes(const BlockTable& table, int position) {
    std::string bytes;
    const auto append = [&](const void* data, size_t size) {
      bytes.append(static_cast<const char*>(data), size);
    };
    ForRows(table.blocks[position / block_tokens], position % block_tokens,
            [&](KvFormat format, int dim, const KvRow& row) {
              const size_t high = row.high_bits != nullptr ? dim / 8 : 0;
              append(row.codes, kernels::KvRowBytes(format, dim) - high);
              if (high > 0) append(row.high_bits, high);
              if (row.scale != nullptr) append(row.scale, sizeof(kernels::F16));
            });
    return bytes;
  }

  std::string BlockBytes(int32_t block) {
    return {reinterpret_cast<const char*>(Bytes(block)), store.layout().block_bytes};
  }

  const int block_tokens;
  BlockStore store;
  BlockPool pool;
};

// The rows that a sequence of `tokens` has, when nothing else ever happened; by position.
std::vector<std::string> PlainRows(const Case& c, const Tokens& tokens) {
  Rig rig(c);
  BlockTable table;
  Tokens known;
  rig.Append(table, known, tokens);
  std::vector<std::string> rows;
  for (size_t i = 0; i < tokens.size(); ++i) rows.push_back(rig.RowBytes(table, i));
  return rows;
}

std::vector<std::string> Rows(Rig& rig, const BlockTable& table, size_t size) {
  std::vector<std::string> rows;
  for (size_t i = 0; i < size; ++i) rows.push_back(rig.RowBytes(table, i));
  return rows;
}

Tokens SomeTokens(int count, int seed) {
  std::mt19937 random(seed);
  Tokens tokens(count);
  for (int& token : tokens) token = static_cast<int>(random() % 1000);
  return tokens;
}

class BlockEdgesTest : public testing::TestWithParam<Case> {};

TEST_P(BlockEdgesTest, RollingBackLeavesTheRowsOfARunThatNeverGuessed) {
  const int kMaxGuesses = 5;
  for (int guesses = 0; guesses <= kMaxGuesses; ++guesses) {
    for (int accepted = 0; accepted <= guesses; ++accepted) {
      // Given a sequence that grows by rounds of one known token and `guesses` guesses, the first
      // `accepted` of which are right.
      Rig rig(GetParam());
      BlockTable table;
      Tokens known;
      const Tokens tokens = SomeTokens(rig.block_tokens * 3 + 5, guesses);
      while (known.size() < tokens.size()) {
        const int begin = static_cast<int>(known.size());
        const int end = std::min(begin + 1 + accepted, static_cast<int>(tokens.size()));
        Tokens fed(tokens.begin() + begin, tokens.begin() + end);
        while (static_cast<int>(fed.size()) < 1 + guesses) fed.push_back(5000 + guesses);
        // When all rows are stored and the wrong ones rolled back.
        rig.Append(table, known, fed);
        rig.Rollback(table, known, end);
      }
      // Then every row is as if they had never been, and so are the blocks in use.
      EXPECT_EQ(Rows(rig, table, tokens.size()), PlainRows(GetParam(), tokens));
      EXPECT_EQ(rig.pool.num_used(), 4);
    }
  }
}

TEST_P(BlockEdgesTest, ACopyHoldsTheSameBytesAndNothingElseMoves) {
  // Given a block that two sequences hold, and all others full of something.
  Rig rig(GetParam());
  BlockTable table;
  Tokens known;
  rig.Append(table, known, SomeTokens(rig.block_tokens - 3, 1));
  const int32_t shared = table.blocks[0];
  const int32_t copy = rig.pool.Allocate();
  std::vector<std::string> before;
  for (int32_t b = 0; b < kBlocks; ++b) before.push_back(rig.BlockBytes(b));
  // When it is copied.
  rig.CopyBlock(shared, copy);
  // Then the copy is the same to the byte, and no other block changed.
  for (int32_t b = 0; b < kBlocks; ++b) {
    EXPECT_EQ(rig.BlockBytes(b), before[b == copy ? shared : b]) << b;
  }
}

TEST_P(BlockEdgesTest, AForkSharesFullBlocksAndWritesOnlyItsOwn) {
  // Given a sequence of one block and a half.
  Rig rig(GetParam());
  const int half = rig.block_tokens / 2;
  const Tokens start = SomeTokens(rig.block_tokens + half, 1);
  BlockTable parent;
  Tokens parent_tokens;
  rig.Append(parent, parent_tokens, start);
  const std::string shared = rig.BlockBytes(parent.blocks[0]);
  // When it forks: the full block is shared, the other one copied.
  BlockTable child;
  rig.pool.AddReference(parent.blocks[0]);
  child.blocks = {parent.blocks[0], rig.pool.Allocate()};
  rig.CopyBlock(parent.blocks[1], child.blocks[1]);
  Tokens child_tokens = start;
  // And both go on with different tokens, in turn.
  for (int i = 0; i < rig.block_tokens; ++i) {
    rig.Append(parent, parent_tokens, SomeTokens(1, 100 + i));
    rig.Append(child, child_tokens, SomeTokens(1, 200 + i));
  }
  // Then each has the rows of a sequence of its own, and what they share is unchanged.
  EXPECT_EQ(Rows(rig, parent, parent_tokens.size()), PlainRows(GetParam(), parent_tokens));
  EXPECT_EQ(Rows(rig, child, child_tokens.size()), PlainRows(GetParam(), child_tokens));
  EXPECT_EQ(rig.BlockBytes(parent.blocks[0]), shared);
  // And the end of one leaves the other its rows.
  Free(parent, rig.pool);
  EXPECT_EQ(Rows(rig, child, child_tokens.size()), PlainRows(GetParam(), child_tokens));
  Free(child, rig.pool);
  EXPECT_EQ(rig.pool.num_used(), 0);
}

TEST_P(BlockEdgesTest, ABlockThatChangesHandsBringsNothingAlong) {
  // Given a pool that one sequence filled, and whose blocks are all cached now.
  Rig rig(GetParam());
  BlockTable first;
  Tokens first_tokens;
  rig.Append(first, first_tokens, SomeTokens(kBlocks * rig.block_tokens, 1));
  for (size_t i = 0; i < first.blocks.size(); ++i) {
    rig.pool.Publish(first.blocks[i], ChildKey(RootKey("", ""), Tokens{static_cast<int>(i)}));
  }
  Free(first, rig.pool);
  ASSERT_EQ(rig.pool.num_cached(), kBlocks);
  // When another one evicts some of them.
  BlockTable second;
  Tokens tokens;
  rig.Append(second, tokens, SomeTokens(rig.block_tokens * 2 + 3, 2));
  // Then it has its own rows, those behind its last one in the same block decode to zero where
  // there are scales, and the blocks that were not evicted are as they were.
  EXPECT_EQ(rig.pool.num_evicted(), 3);
  EXPECT_EQ(Rows(rig, second, tokens.size()), PlainRows(GetParam(), tokens));
  for (int cell = 3; cell < rig.block_tokens; ++cell) {
    rig.ForRows(second.blocks[2], cell, [&](KvFormat format, int dim, const KvRow& row) {
      if (!kernels::KvHasScale(format)) return;
      std::vector<float> values(dim, 1.0f);
      kernels::DecodeRowReference(format, dim, row, values.data());
      EXPECT_THAT(values, testing::Each(0.0f)) << "cell " << cell;
    });
  }
  const std::vector<std::string> old = PlainRows(GetParam(), first_tokens);
  for (int b = 0; b < kBlocks; ++b) {
    const int32_t block = rig.pool.Find(ChildKey(RootKey("", ""), Tokens{b}));
    if (block < 0) continue;
    for (int cell = 0; cell < rig.block_tokens; ++cell) {
      EXPECT_EQ(rig.RowBytes({{block}, 0}, cell), old[b * rig.block_tokens + cell]);
    }
  }
}

TEST_P(BlockEdgesTest, ARowIsWrittenWithoutTouchingItsNeighbours) {
  // Given a full block.
  Rig rig(GetParam());
  BlockTable table;
  Tokens known;
  rig.Append(table, known, SomeTokens(rig.block_tokens, 1));
  const std::vector<std::string> before = Rows(rig, table, known.size());
  // When one of its rows is stored anew.
  const int changed = rig.block_tokens / 2 + 1;
  rig.Write(table, changed, 77777);
  // Then that one differs and no other.
  const std::vector<std::string> after = Rows(rig, table, known.size());
  for (int i = 0; i < rig.block_tokens; ++i) EXPECT_EQ(after[i] == before[i], i != changed) << i;
}

TEST_P(BlockEdgesTest, PreparingABlockClearsItsScalesAndNothingElse) {
  // Given three full blocks.
  Rig rig(GetParam());
  BlockTable table;
  Tokens known;
  rig.Append(table, known, SomeTokens(3 * rig.block_tokens, 1));
  const std::vector<std::string> neighbours = {rig.BlockBytes(table.blocks[0]),
                                               rig.BlockBytes(table.blocks[2])};
  std::string block = rig.BlockBytes(table.blocks[1]);
  // When the middle one is prepared for another sequence.
  rig.store.PrepareBlock(table.blocks[1]);
  // Then its scales are zero, its codes as they were, and its neighbours too.
  for (int cell = 0; cell < rig.block_tokens; ++cell) {
    rig.ForRows(table.blocks[1], cell, [&](KvFormat, int, const KvRow& row) {
      if (row.scale == nullptr) return;
      EXPECT_EQ(row.scale->bits, 0);
      const auto* at = reinterpret_cast<const std::byte*>(row.scale);
      std::memset(block.data() + (at - rig.Bytes(table.blocks[1])), 0, sizeof(kernels::F16));
    });
  }
  EXPECT_EQ(rig.BlockBytes(table.blocks[1]), block);
  EXPECT_EQ(rig.BlockBytes(table.blocks[0]), neighbours[0]);
  EXPECT_EQ(rig.BlockBytes(table.blocks[2]), neighbours[1]);
}

INSTANTIATE_TEST_SUITE_P(Formats, BlockEdgesTest,
                         testing::Values(Case{"f32", 16}, Case{"bf16", 32}, Case{"f16/turbo4", 16},
                                         Case{"q8", 32}, Case{"q8/turbo4", 16},
                                         Case{"turbo4/f16", 64}, Case{"turbo4/turbo3", 16},
                                         Case{"turbo3/turbo2", 32}, Case{"turbo3", 16},
                                         Case{"turbo2/q8", 16}),
                         [](const testing::TestParamInfo<Case>& info) {
                           std::string name = info.param.pair;
                           std::replace(name.begin(), name.end(), '/', '_');
                           return name + "_blocks_of_" + std::to_string(info.param.block_tokens);
                         });

}  // namespace
}  // namespace tandem::kvcache
