// Attention of every CPU level against the reference (ATT-1), and bit equality of its rows under
// every way of batching them (INV-1).
#include "kernels/cpu/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/attention_ref.h"
#include "tests/kernels/paged_kv.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

using testing::Each;

constexpr KvFormat kFormats[] = {KvFormat::kBf16, KvFormat::kF32, KvFormat::kF16};

std::vector<float> Reference(const AttentionBatch& batch) {
  std::vector<float> out(size_t(batch.rows()) * batch.row_values(), NAN);
  const std::vector<AttentionSegment> segments = batch.Segments();
  AttentionReference(batch.Args(segments, out.data()));
  return out;
}

// Every level on two threads against the reference.
void ExpectEqualsReference(const AttentionBatch& batch) {
  const std::vector<float> want = Reference(batch);
  for (const CpuIsa isa : Levels()) {
    const CpuBackendPtr backend = BackendAt(isa, 2);
    EXPECT_LE(RelativeError(batch.Run(CpuOps(*backend)), want), kFloatTolerance) << CpuIsaName(isa);
  }
}

TEST(AttentionTest, SupportsTheTwoHeadSizesInEveryPairOfFormatsAndNothingElse) {
  for (const CpuIsa isa : Levels()) {
    const CpuBackendPtr backend = BackendAt(isa, 1);
    const Ops& ops = CpuOps(*backend);
    for (int pair = 0; pair < kNumKvFormats * kNumKvFormats; ++pair) {
      const auto k = static_cast<KvFormat>(pair / kNumKvFormats);
      const auto v = static_cast<KvFormat>(pair % kNumKvFormats);
      EXPECT_TRUE(ops.supports({256, k, v}));
      EXPECT_TRUE(ops.supports({512, k, v}));
      for (const int dim : {0, 16, 64, 128, 255, 257, 320, 1024}) {
        EXPECT_FALSE(ops.supports({dim, k, v})) << dim;
      }
    }
    EXPECT_FALSE(ops.supports({256, static_cast<KvFormat>(7), KvFormat::kBf16}));
    EXPECT_FALSE(ops.supports({256, KvFormat::kBf16, static_cast<KvFormat>(9)}));
  }
}

TEST(AttentionTest, EqualsTheReferenceForEveryHeadSizeGroupFormatAndBlockSize) {
  int rows = 1, log2_block = 4, variant = 0;
  for (const int head_dim : {256, 512}) {
    for (const int group : {1, 2, 3, 4, 8, 16}) {
      KvShape shape = {.head_dim = head_dim,
                       .num_kv_heads = 1 + variant % 2,
                       .log2_block_tokens = log2_block,
                       .k_format = kFormats[variant % 3],
                       .v_format = kFormats[variant / 2 % 3]};
      SCOPED_TRACE(testing::Message()
                   << "head_dim " << head_dim << " group " << group << " rows " << rows
                   << " block 2^" << log2_block << " variant " << variant);
      ExpectEqualsReference(AttentionBatch(
          shape, group, {CausalRows(150, rows, variant % 3 * 40), CausalRows(rows + 11, rows)}));
      rows = rows % 9 + 1;
      log2_block = log2_block == 6 ? 4 : log2_block + 1;
      ++variant;
    }
  }
}

// What a draft step asks for: one row per sequence, at every ratio of query to K/V heads.
TEST(AttentionTest, EqualsTheReferenceForSingleRowsOfEveryRatioFormatAndWindow) {
  for (const int head_dim : {256, 512}) {
    for (const int group : {1, 2, 4, 8, 16}) {
      for (const KvFormat format : kFormats) {
        for (const int window : {0, 40}) {
          SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << " group " << group
                                          << " format " << int(format) << " window " << window);
          const KvShape shape = {.head_dim = head_dim,
                                 .num_kv_heads = 2,
                                 .log2_block_tokens = 4,
                                 .k_format = format,
                                 .v_format = format};
          // Given sequences of different lengths, one of them a single token.
          ExpectEqualsReference(
              AttentionBatch(shape, group,
                             {CausalRows(1, 1, window), CausalRows(39, 1, window),
                              CausalRows(150, 1, window), CausalRows(41, 1, window)}));
        }
      }
    }
  }
}

TEST(AttentionTest, EqualsTheReferenceAroundTheEdgesOfAChunk) {
  const int chunk = kAttentionChunk;
  for (const int context : {1, 2, 15, 16, 17, chunk - 1, chunk, chunk + 1, 2 * chunk - 1, 2 * chunk,
                            2 * chunk + 1, 8 * chunk - 1, 8 * chunk + 1}) {
    SCOPED_TRACE(testing::Message() << "context " << context);
    ExpectEqualsReference(AttentionBatch({}, 2, {CausalRows(context, 1)}));
  }
}

TEST(AttentionTest, EqualsTheReferenceAroundTheEdgesOfAWindow) {
  const int window = 72;
  for (const int context : {window - 1, window, window + 1, 3 * window}) {
    SCOPED_TRACE(testing::Message() << "context " << context);
    ExpectEqualsReference(AttentionBatch({.log2_block_tokens = 4}, 4,
                                         {CausalRows(context, std::min(9, context), window)}));
  }
}

TEST(AttentionTest, EqualsTheReferenceForIntervalsThatBeginAndEndInsideATile) {
  std::vector<SegmentRows> segments;
  for (const int begin : {0, 1, 15, 16, 17, 127, 128, 129, 250}) {
    for (const int length : {1, 2, 15, 16, 17, 130}) {
      segments.push_back({{begin, begin + length}});
    }
  }
  ExpectEqualsReference(AttentionBatch({.log2_block_tokens = 4}, 3, segments));
}

TEST(AttentionTest, EqualsTheReferenceWhenRowsFillSeveralPackedGroups) {
  ExpectEqualsReference(AttentionBatch({}, 3, {CausalRows(140, 50, 64)}));  // 150 packed rows
  ExpectEqualsReference(AttentionBatch({}, 80, {CausalRows(40, 3)}));       // heads of one row
  ExpectEqualsReference(AttentionBatch({.num_kv_heads = 3}, 8, {CausalRows(33, 33)}));
}

TEST(AttentionTest, SlidingWindowOfFourLetsQueryFiveSeeKeysTwoToFive) {
  // Given values that name their position in one dimension, and scores all equal.
  AttentionBatch batch({.k_format = KvFormat::kF32, .v_format = KvFormat::kF32}, 1,
                       {CausalRows(/*context=*/6, /*rows=*/6, /*window=*/4)});
  for (int p = 0; p < 6; ++p) {
    std::vector<float> v(256, 0.0f);
    v[p] = 1.0f;
    const int32_t block = batch.block(0, p);
    batch.kv().WriteK(block, 0, p, std::vector<float>(256, 0.0f));
    batch.kv().WriteV(block, 0, p, v);
  }
  for (const CpuIsa isa : Levels()) {
    const CpuBackendPtr backend = BackendAt(isa, 1);
    // When the row at position 5 attends.
    const std::vector<float> out = batch.Run(CpuOps(*backend));
    // Then it averages positions 2, 3, 4 and 5.
    for (int p = 0; p < 8; ++p) {
      EXPECT_EQ(out[5 * 256 + p], p >= 2 && p <= 5 ? 0.25f : 0.0f) << p;
    }
  }
}

TEST(AttentionTest, ADominantKeyReturnsItsValueExactly) {
  // Given rows that each point at one position, in every place of a chunk and just past it.
  const int positions = kAttentionChunk + 20;
  AttentionBatch batch({.k_format = KvFormat::kF32}, 1,
                       {SegmentRows(positions, Interval{0, positions})});
  for (int p = 0; p < positions; ++p) {
    std::vector<float> direction(256, 0.0f);
    direction[p] = 150.0f;
    batch.kv().WriteK(batch.block(0, p), 0, p % 32, direction);
    direction[p] = 1.0f;
    std::copy(direction.begin(), direction.end(), batch.q(p));
  }
  for (const CpuIsa isa : Levels()) {
    const CpuBackendPtr backend = BackendAt(isa, 2);
    const std::vector<float> out = batch.Run(CpuOps(*backend));
    for (int p = 0; p < positions; ++p) {
      const std::vector<float> want = batch.kv().ReadV(batch.block(0, p), 0, p % 32);
      EXPECT_EQ(std::vector<float>(&out[p * 256], &out[p * 256] + 256), want)
          << CpuIsaName(isa) << " position " << p;
    }
  }
}

TEST(AttentionTest, RowsThatSeeNothingAreZeroAndTouchNoBlock) {
  const AttentionBatch batch({}, 4, {{{0, 0}, {70, 70}}, {{0, 0}, {40, 45}, {45, 45}}});
  const std::vector<float> want = Reference(batch);
  for (const CpuIsa isa : Levels()) {
    const CpuBackendPtr backend = BackendAt(isa, 2);
    const std::vector<float> out = batch.Run(CpuOps(*backend));
    const size_t row = batch.row_values();
    EXPECT_THAT(std::vector<float>(out.begin(), out.begin() + 3 * row), Each(0.0f));
    EXPECT_THAT(std::vector<float>(out.begin() + 4 * row, out.end()), Each(0.0f));
    EXPECT_LE(RelativeError(out, want), kFloatTolerance);
  }
}

TEST(AttentionTest, ReleasedBlocksBetweenTheIntervalsOfASegmentAreNotTouched) {
  // Given rows that see far apart stretches: the table holds -1 in between, for whole chunks.
  ExpectEqualsReference(
      AttentionBatch({.log2_block_tokens = 4}, 2, {{{3, 20}, {300, 333}, {600, 610}}}));
}

TEST(AttentionTest, NoRowsAndNoSegmentsAreFine) {
  for (const CpuIsa isa : Levels()) {
    const CpuBackendPtr backend = BackendAt(isa, 2);
    EXPECT_TRUE(AttentionBatch({}, 2, {}).Run(CpuOps(*backend)).empty());
    EXPECT_TRUE(AttentionBatch({}, 2, {{}}).Run(CpuOps(*backend)).empty());
  }
}

// Bit equality, level by level.
class AttentionBitsTest : public testing::TestWithParam<CpuIsa> {
 protected:
  // Whether rows [row, row + rows) have the same bits in both.
  static bool SameRows(const AttentionBatch& batch, const std::vector<float>& a,
                       const std::vector<float>& b, int row, int rows) {
    const size_t values = batch.row_values();
    return std::memcmp(&a[row * values], &b[row * values], rows * values * sizeof(float)) == 0;
  }

  CpuBackendPtr one_ = BackendAt(GetParam(), 1);
  CpuBackendPtr two_ = BackendAt(GetParam(), 2);
  CpuBackendPtr three_ = BackendAt(GetParam(), 3);
};

INSTANTIATE_TEST_SUITE_P(Levels, AttentionBitsTest, testing::ValuesIn(VectorLevels()), LevelName);

TEST_P(AttentionBitsTest, ARowAloneEqualsTheRowInABatchInAnyOrder) {
  for (const int group : {1, 2, 3, 8}) {
    SCOPED_TRACE(testing::Message() << "group " << group);
    const AttentionBatch batch({.num_kv_heads = 2}, group,
                               {CausalRows(300, 1), CausalRows(77, 5), CausalRows(45, 20, 30),
                                CausalRows(140, 9, 100), CausalRows(1, 1)});
    const std::vector<AttentionSegment> segments = batch.Segments();
    // Given the whole batch, on two threads.
    const std::vector<float> all = batch.Run(CpuOps(*two_), segments);
    EXPECT_LE(RelativeError(all, Reference(batch)), kFloatTolerance);
    // When the segments come in reverse, then every row has the same bits.
    const std::vector<AttentionSegment> reversed(segments.rbegin(), segments.rend());
    EXPECT_TRUE(SameRows(batch, all, batch.Run(CpuOps(*two_), reversed), 0, batch.rows()));
    // When a row comes alone, then too.
    for (const AttentionSegment& segment : segments) {
      for (int i = 0; i < segment.num_rows; ++i) {
        const int row = segment.row_begin + i;
        const AttentionSegment alone = {row, 1, segment.block_table};
        EXPECT_TRUE(SameRows(batch, all, batch.Run(CpuOps(*one_), {&alone, 1}), row, 1)) << row;
      }
    }
  }
}

TEST_P(AttentionBitsTest, APromptInChunksEqualsThePromptAtOnce) {
  const int rows = 61;
  const AttentionBatch batch({}, 4, {CausalRows(190, rows, 100)});
  const std::vector<float> whole = batch.Run(CpuOps(*two_));
  for (const int chunk : {1, 7, 32}) {
    for (int row = 0; row < rows; row += chunk) {
      const int count = std::min(chunk, rows - row);
      const AttentionSegment part = {row, count, batch.Segments()[0].block_table};
      EXPECT_TRUE(SameRows(batch, whole, batch.Run(CpuOps(*two_), {&part, 1}), row, count))
          << "chunks of " << chunk << ", row " << row;
    }
  }
}

TEST_P(AttentionBitsTest, ThreadsAndSplittingDoNotChangeARow) {
  // Given one long stream whose chunks are worth splitting, in more chunks than the buffer of two
  // threads holds at once, beside two short ones.
  const AttentionBatch batch(
      {.head_dim = 512}, 16,
      {CausalRows(11 * kAttentionChunk + 5, 4), CausalRows(150, 1), CausalRows(20, 2)});
  const std::vector<AttentionSegment> segments = batch.Segments();
  std::vector<float> out;
  const AttentionArgs args = batch.Args(segments, out.data());
  EXPECT_TRUE(PlanAttention(args, 1).split.empty());
  const AttentionPlan plan = PlanAttention(args, 2);
  ASSERT_EQ(plan.split.size(), 1u);
  EXPECT_EQ(plan.split[0].chunk_end - plan.split[0].chunk_begin, 12);
  EXPECT_EQ(plan.whole.size(), 2u);
  // When it runs on one, two and three threads, then the bits agree.
  const std::vector<float> whole = batch.Run(CpuOps(*one_));
  EXPECT_TRUE(SameRows(batch, whole, batch.Run(CpuOps(*two_)), 0, batch.rows()));
  EXPECT_TRUE(SameRows(batch, whole, batch.Run(CpuOps(*three_)), 0, batch.rows()));
}

TEST_P(AttentionBitsTest, WhatALaterRowSeesIsNothingToAnEarlierOne) {
  // Given verify rows of which the last two see a position whose K and V are not numbers.
  AttentionBatch batch({}, 4, {CausalRows(40, 6)});
  const std::vector<float> before = batch.Run(CpuOps(*one_));
  const std::vector<float> nan(256, std::numeric_limits<float>::quiet_NaN());
  const int32_t block = batch.block(0, 38);
  batch.kv().WriteK(block, 0, 38 % 32, nan);
  batch.kv().WriteV(block, 0, 38 % 32, nan);
  // When all six attend together, then the first four have the bits they had.
  const std::vector<float> after = batch.Run(CpuOps(*one_));
  EXPECT_TRUE(SameRows(batch, before, after, 0, 4));
  EXPECT_TRUE(std::isnan(after[4 * batch.row_values()]));
}

TEST(PlanAttentionTest, ManyUnitsStayWholeAndEveryPackedRowIsPlannedOnce) {
  const AttentionBatch batch({.num_kv_heads = 2}, 8,
                             {CausalRows(400, 20), CausalRows(390, 20), CausalRows(410, 20)});
  const std::vector<AttentionSegment> segments = batch.Segments();
  std::vector<float> out;
  const AttentionPlan plan = PlanAttention(batch.Args(segments, out.data()), 2);
  EXPECT_TRUE(plan.split.empty());
  int packed_rows = 0;
  for (const AttentionUnit& unit : plan.whole) {
    EXPECT_LE(unit.packed_rows, kMaxPackedRows);
    packed_rows += unit.packed_rows;
  }
  EXPECT_EQ(packed_rows, 3 * 20 * 8 * 2);
}

TEST(PlanAttentionTest, ChunksBeforeTheFirstSeenPositionAreNotVisited) {
  const AttentionBatch batch({}, 2, {{{0, 0}, {5 * kAttentionChunk, 5 * kAttentionChunk + 9}}});
  const std::vector<AttentionSegment> segments = batch.Segments();
  std::vector<float> out;
  const AttentionPlan plan = PlanAttention(batch.Args(segments, out.data()), 2);
  ASSERT_EQ(plan.whole.size(), 1u);
  EXPECT_EQ(plan.whole[0].chunk_begin, 5);
  EXPECT_EQ(plan.whole[0].chunk_end, 6);
}

}  // namespace
}  // namespace tandem::kernels
