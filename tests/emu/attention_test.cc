// Emulated split attention against f64 (ATT-1), and bit equality of its rows under every way of
// cutting and batching them (INV-1).
#include "kernels/cuda/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "tests/emu/attention_step.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

using testing::Each;

// Runs all rows in every schedule; the results are the same and near the truth.
void ExpectEqualsTruth(const AttentionBatch& batch, StepOptions options) {
  const std::vector<float> want = AttentionTruth(batch);
  std::vector<float> first;
  for (const emu::Schedule& schedule : AllSchedules()) {
    options.schedule = schedule;
    const StepResult got = RunStep(batch, AllRows(batch), options);
    ASSERT_EQ(got.error, "");
    if (first.empty()) first = got.out;
    EXPECT_EQ(got.out, first);
  }
  EXPECT_LE(RelativeError(first, want), kAttentionTolerance);
}

TEST(SplitAttentionTest, EqualsTheTruthForEveryHeadSizeGroupGrainAndKindOfFormat) {
  int variant = 0;
  for (const int head_dim : {256, 512}) {
    for (const int group : {1, 2, 3, 4, 8, 16}) {
      const FormatPair formats = kPairs[variant % std::size(kPairs)];
      const int rows = variant * 4 % 9 + 1;
      const KvShape shape = {.head_dim = head_dim,
                             .num_kv_heads = group < 4 ? 2 : 1,
                             .log2_block_tokens = 4 + variant % 3,
                             .k_format = formats.k,
                             .v_format = formats.v};
      SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << " group " << group << " rows "
                                      << rows << " variant " << variant);
      ExpectEqualsTruth(
          AttentionBatch(
              shape, group,
              {CausalRows(150, rows, variant % 3 * 40), CausalRows(rows + 11, rows), {{0, 0}}}),
          {.grain = {.m_tiles = 1 + variant / 2 % 2, .super_chunks = variant % 2 == 1}});
      ++variant;
    }
  }
}

TEST(SplitAttentionTest, EqualsTheTruthAtTheEdgesOfChunksAndTilesAndWindows) {
  const KvShape shape = {.k_format = KvFormat::kQ8, .v_format = KvFormat::kQ8};
  for (const bool super_chunks : {false, true}) {
    SCOPED_TRACE(super_chunks);
    ExpectEqualsTruth(AttentionBatch(shape, /*group=*/2,
                                     {CausalRows(63, 2),
                                      CausalRows(64, 1),
                                      CausalRows(65, 3),
                                      CausalRows(511, 1),
                                      CausalRows(513, 2),
                                      CausalRows(200, 2, 77),
                                      {{5, 6}, {31, 33}, {32, 64}}}),
                      {.grain = {.m_tiles = 1, .super_chunks = super_chunks}});
  }
}

class SplitAttentionInvarianceTest : public testing::TestWithParam<FormatPair> {
 protected:
  AttentionBatch Batch(int dirt = 0xff) const {
    const KvShape shape = {.num_kv_heads = 1, .k_format = GetParam().k, .v_format = GetParam().v};
    return AttentionBatch(shape, /*group=*/4,
                          {CausalRows(600, 5), CausalRows(37, 1), CausalRows(140, 9, 100)},
                          /*seed=*/3, dirt);
  }
};

TEST_P(SplitAttentionInvarianceTest, HowAStepIsCutDoesNotShow) {
  const AttentionBatch batch = Batch();
  const StepResult want = RunStep(batch, AllRows(batch), {});
  ASSERT_EQ(want.error, "");
  for (const int m_tiles : {1, 2}) {
    for (const bool super_chunks : {false, true}) {
      // A grid of one block, and one with more blocks than work; one wave, and several.
      const AttentionGrain grain = {.m_tiles = m_tiles, .super_chunks = super_chunks};
      const StepResult got = RunStep(batch, AllRows(batch), {.grain = grain, .blocks = 1});
      EXPECT_EQ(got.out, want.out) << m_tiles << super_chunks;
      const StepResult waves =
          RunStep(batch, AllRows(batch), {.grain = grain, .blocks = 100, .max_slots = 10});
      EXPECT_EQ(waves.out, want.out) << m_tiles << super_chunks;
      if (!super_chunks) {
        EXPECT_GT(waves.waves, 1);
      }
    }
  }
}

TEST_P(SplitAttentionInvarianceTest, NeighboursDoNotShow) {
  const AttentionBatch batch = Batch();
  const StepResult together = RunStep(batch, AllRows(batch), {});
  const std::vector<AttentionSegment> segments = batch.Segments();
  // Segments in another order, and each row of a verified draft as if it were decoded alone.
  std::vector<StepRows> pieces;
  std::vector<float> want;
  for (int s = batch.num_segments() - 1; s >= 0; --s) {
    for (int row = 0; row < segments[s].num_rows; ++row) {
      pieces.push_back({s, row, 1});
      const auto at =
          together.out.begin() + int64_t{segments[s].row_begin + row} * batch.row_values();
      want.insert(want.end(), at, at + batch.row_values());
    }
  }
  EXPECT_EQ(RunStep(batch, pieces, {}).out, want);
  EXPECT_EQ(RunStep(batch, {pieces.back()}, {}).out,
            std::vector<float>(want.end() - batch.row_values(), want.end()));
}

TEST_P(SplitAttentionInvarianceTest, BytesThatNoRowSeesDoNotShow) {
  const AttentionBatch batch = Batch(), cleaner = Batch(0x00), other = Batch(0x7f);
  const std::vector<float> want = RunStep(batch, AllRows(batch), {}).out;
  EXPECT_EQ(RunStep(cleaner, AllRows(cleaner), {}).out, want);
  EXPECT_EQ(RunStep(other, AllRows(other), {}).out, want);
}

INSTANTIATE_TEST_SUITE_P(Formats, SplitAttentionInvarianceTest,
                         testing::Values(kPairs[0], kPairs[1], kPairs[2], kPairs[3]), PairName);

TEST(SplitAttentionTest, ARowThatSeesNothingIsZero) {
  const AttentionBatch batch({}, /*group=*/1, {{{0, 0}, {0, 3}}, {{7, 7}}});
  const StepResult got = RunStep(batch, AllRows(batch), {});
  ASSERT_EQ(got.error, "");
  const std::vector<float> first(got.out.begin(), got.out.begin() + 256);
  const std::vector<float> last(got.out.end() - 256, got.out.end());
  EXPECT_THAT(first, Each(0.0f));
  EXPECT_THAT(last, Each(0.0f));
}

TEST(SplitAttentionTest, ReleasedBlocksAreNotReadAndRowsOfNoPartStay) {
  // Given rows that see the first and the last of four blocks, the others released, and padding.
  const AttentionBatch batch({.log2_block_tokens = 4}, /*group=*/2, {{{0, 16}, {48, 64}}});
  // When they attend in one piece.
  const StepResult got = RunStep(batch, AllRows(batch), {.padding_rows = 3});
  // Then they are right, and padding is what it was.
  ASSERT_EQ(got.error, "");
  const size_t values = size_t(batch.rows()) * batch.row_values();
  const std::vector<float> rows(got.out.begin(), got.out.begin() + values);
  EXPECT_LE(RelativeError(rows, AttentionTruth(batch)), kAttentionTolerance);
  EXPECT_THAT(std::vector<float>(got.out.begin() + values, got.out.end()), Each(kUntouched));
}

TEST(SplitAttentionTest, RecordedLaunchesServeOtherLengths) {
  // Given the launches of a step of seven rows in one wave, and one more for a second.
  const KvShape shape = {.num_kv_heads = 2, .k_format = KvFormat::kQ8, .v_format = KvFormat::kQ8};
  const AttentionBatch batch(shape, /*group=*/2,
                             {CausalRows(300, 3), CausalRows(90, 3), CausalRows(40, 1)});
  StepArrays step = MakeStepArrays(batch, AllRows(batch), {});
  ASSERT_TRUE(PlanSplit(&step));
  ASSERT_EQ(step.waves.size(), 1u);
  step.waves.push_back({});
  // When other rows with other lengths, two of them padding, lie in the same arrays.
  const std::vector<StepRows> pieces = {{1, 1, 2}, {0, 0, 3}};
  StepArrays other = MakeStepArrays(batch, pieces, {.padding_rows = 2});
  ASSERT_TRUE(PlanSplit(&other));
  for (const int p : {0, 1}) {
    std::copy_n(&other.tables[p * other.table_stride], other.table_stride,
                &step.tables[p * step.table_stride]);
  }
  std::copy(other.q.begin(), other.q.end(), step.q.begin());
  std::copy(other.visible.begin(), other.visible.end(), step.visible.begin());
  ASSERT_LE(other.items.size(), step.items.size());
  std::copy(other.items.begin(), other.items.end(), step.items.begin());
  std::copy(other.parts.begin(), other.parts.end(), step.parts.begin());
  std::copy(other.part_of_row.begin(), other.part_of_row.end(), step.part_of_row.begin());
  step.waves[0] = other.waves[0];
  KernelStream stream(emu::Schedule{}, /*os_threads=*/2);
  for (const int wave : {0, 1}) {
    K_WORLD::AttentionSplit(SplitArgsOf(step, wave), stream.get());
    K_WORLD::AttentionMerge(MergeArgsOf(step, wave), stream.get());
  }
  // Then the result is that of the other step.
  ASSERT_EQ(stream.TakeError(), "");
  EXPECT_EQ(OutputOf(step), RunStep(batch, pieces, {.padding_rows = 2}).out);
}

TEST(SplitAttentionTest, MovesTheBytesOfItsFormulas) {
  if (!kCountsTraffic) GTEST_SKIP() << "only emulation counts bytes";
  for (const KvFormat format : {KvFormat::kBf16, KvFormat::kQ8, KvFormat::kTurbo4}) {
    const KvShape shape = {.num_kv_heads = 2, .k_format = format, .v_format = format};
    const AttentionBatch batch(shape, /*group=*/8, {CausalRows(256, 2)});
    const StepResult got = RunStep(batch, AllRows(batch), {});
    ASSERT_EQ(got.error, "");
    // Given 4 chunks of 64 positions, 2 KV heads and 16 packed rows; each of 4 warps reads scales.
    const double pieces = 4 * 2, scales = KvHasScale(format) ? 4 * 2.0 : 0.0;
    const double codes = static_cast<double>(KvRowBytes(format, 256));
    const double read = pieces * (64 * 2 * (codes + scales) + 16 * 2 * 256 + 16 * 8);
    EXPECT_LE(got.split.read, 1.05 * read);
    EXPECT_GE(got.split.read, read);
    EXPECT_EQ(got.split.written, pieces * 16 * (4 * 256 + 8));
    const double merged = 2 * 16;
    EXPECT_LE(got.merge.read, 1.05 * merged * (4 * (4 * 256 + 8) + 60));
    EXPECT_EQ(got.merge.written, merged * 2 * 256);
  }
}

TEST(SplitAttentionTest, ShapesWithoutAKernelAreTold) {
  for (int pair = 0; pair < kNumKvFormats * kNumKvFormats; ++pair) {
    const auto k = static_cast<KvFormat>(pair / kNumKvFormats);
    const auto v = static_cast<KvFormat>(pair % kNumKvFormats);
    const bool stored = k != KvFormat::kF32 && v != KvFormat::kF32;
    EXPECT_EQ(K_WORLD::AttentionSupports({256, k, v}), stored);
    EXPECT_EQ(K_WORLD::AttentionSupports({512, k, v}), stored);
    EXPECT_FALSE(K_WORLD::AttentionSupports({128, k, v}));
  }
  EXPECT_FALSE(K_WORLD::AttentionSupports({256, static_cast<KvFormat>(7), KvFormat::kBf16}));
  for (const int m_tiles : {1, 2}) {
    EXPECT_TRUE(K_WORLD::AllowAttention({512, KvFormat::kBf16, KvFormat::kBf16},
                                        {.m_tiles = m_tiles, .super_chunks = true}));
  }
}

}  // namespace
}  // namespace tandem::kernels
