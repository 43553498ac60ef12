// Emulated attention of prompt rows against f64 (ATT-1), and bit equality of its rows wherever a
// prompt is cut into chunks (INV-1).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iterator>
#include <vector>

#include "kernels/cuda/attention.h"
#include "tests/emu/attention_step.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

using testing::Each;

// Runs all rows in every schedule; the results are the same and near the truth.
void ExpectEqualsTruth(const AttentionBatch& batch) {
  std::vector<float> first;
  for (const emu::Schedule& schedule : AllSchedules()) {
    const StepResult got = RunDirectStep(batch, AllRows(batch), {.schedule = schedule});
    ASSERT_EQ(got.error, "");
    if (first.empty()) first = got.out;
    EXPECT_EQ(got.out, first);
  }
  EXPECT_LE(RelativeError(first, AttentionTruth(batch)), kAttentionTolerance);
}

TEST(DirectAttentionTest, EqualsTheTruthForEveryHeadSizeGroupAndKindOfFormat) {
  int variant = 0;
  for (const int head_dim : {256, 512}) {
    for (const int group : {1, 2, 3, 4, 8, 16}) {
      const FormatPair formats = kPairs[variant % std::size(kPairs)];
      const int rows = variant * 5 % 23 + 1;
      const KvShape shape = {.head_dim = head_dim,
                             .num_kv_heads = group < 4 ? 2 : 1,
                             .log2_block_tokens = 4 + variant % 3,
                             .k_format = formats.k,
                             .v_format = formats.v};
      SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << " group " << group << " rows "
                                      << rows << " variant " << variant);
      ExpectEqualsTruth(AttentionBatch(
          shape, group,
          {CausalRows(100, rows, variant % 3 * 40), CausalRows(rows, rows), {{0, 0}}}));
      ++variant;
    }
  }
}

TEST(DirectAttentionTest, EqualsTheTruthAtTheEdgesOfTilesAndWindowsAndLongIntervals) {
  const KvShape shape = {.k_format = KvFormat::kQ8, .v_format = KvFormat::kQ8};
  ExpectEqualsTruth(AttentionBatch(shape, /*group=*/2,
                                   {CausalRows(31, 2),
                                    CausalRows(32, 1),
                                    CausalRows(33, 3),
                                    CausalRows(512, 1),
                                    CausalRows(513, 2),
                                    CausalRows(1030, 2, 77),
                                    {{5, 6}, {31, 33}, {32, 64}}}));
}

class DirectAttentionInvarianceTest : public testing::TestWithParam<FormatPair> {
 protected:
  // Two prompts, the second with a window, 4 heads per row.
  AttentionBatch Batch(int dirt = 0xff) const {
    const KvShape shape = {.k_format = GetParam().k, .v_format = GetParam().v};
    return AttentionBatch(shape, /*group=*/4, {CausalRows(70, 21), CausalRows(200, 12, 90)},
                          /*seed=*/3, dirt);
  }
};

TEST_P(DirectAttentionInvarianceTest, WhereAPromptIsCutIntoChunksDoesNotShow) {
  const AttentionBatch batch = Batch();
  const StepResult want = RunDirectStep(batch, AllRows(batch), {});
  ASSERT_EQ(want.error, "");
  for (const int cut : {1, 7, 8, 20}) {
    // Both chunks in one step, and the second in a step of its own, behind another prompt.
    const std::vector<StepRows> chunks = {{0, 0, cut}, {0, cut, 21 - cut}, {1, 0, 12}};
    EXPECT_EQ(RunDirectStep(batch, chunks, {}).out, want.out) << cut;
    const StepResult alone = RunDirectStep(batch, {{1, 0, 12}, {0, cut, 21 - cut}}, {});
    const std::vector<float> tail(alone.out.begin() + 12 * batch.row_values(), alone.out.end());
    EXPECT_EQ(tail, std::vector<float>(want.out.begin() + cut * batch.row_values(),
                                       want.out.begin() + 21 * batch.row_values()))
        << cut;
  }
}

TEST_P(DirectAttentionInvarianceTest, TheGridDoesNotShow) {
  const AttentionBatch batch = Batch();
  const StepResult want = RunDirectStep(batch, AllRows(batch), {});
  ASSERT_EQ(want.error, "");
  EXPECT_EQ(RunDirectStep(batch, AllRows(batch), {.blocks = 1}).out, want.out);
  EXPECT_EQ(RunDirectStep(batch, AllRows(batch), {.blocks = 50}).out, want.out);
}

TEST_P(DirectAttentionInvarianceTest, BytesThatNoRowSeesDoNotShow) {
  const AttentionBatch batch = Batch(), cleaner = Batch(0x00), other = Batch(0x7f);
  const std::vector<float> want = RunDirectStep(batch, AllRows(batch), {}).out;
  EXPECT_EQ(RunDirectStep(cleaner, AllRows(cleaner), {}).out, want);
  EXPECT_EQ(RunDirectStep(other, AllRows(other), {}).out, want);
}

INSTANTIATE_TEST_SUITE_P(Formats, DirectAttentionInvarianceTest,
                         testing::Values(kPairs[0], kPairs[1], kPairs[2], kPairs[3]), PairName);

TEST(DirectAttentionTest, ReleasedBlocksAreNotReadAndRowsOfNoPartStay) {
  // Given rows that see the first and the last of four blocks, the others released, one that sees
  // nothing, and padding.
  const AttentionBatch batch({.log2_block_tokens = 4}, /*group=*/2,
                             {{{0, 16}, {48, 64}}, {{7, 7}}});
  // When they attend.
  const StepResult got = RunDirectStep(batch, AllRows(batch), {.padding_rows = 3});
  // Then they are right, nothing gives zero, and padding is what it was.
  ASSERT_EQ(got.error, "");
  const size_t values = size_t(batch.rows()) * batch.row_values();
  const std::vector<float> rows(got.out.begin(), got.out.begin() + values);
  EXPECT_LE(RelativeError(rows, AttentionTruth(batch)), kAttentionTolerance);
  EXPECT_THAT(std::vector<float>(rows.end() - batch.row_values(), rows.end()), Each(0.0f));
  EXPECT_THAT(std::vector<float>(got.out.begin() + values, got.out.end()), Each(kUntouched));
}

TEST(DirectAttentionTest, AStepWithoutRowsDoesNothing) {
  const AttentionBatch batch({}, /*group=*/1, {{{0, 3}}});
  const StepResult got = RunDirectStep(batch, {}, {.padding_rows = 1});
  EXPECT_EQ(got.error, "");
  EXPECT_THAT(got.out, Each(kUntouched));
}

TEST(DirectAttentionTest, MovesTheBytesOfItsFormula) {
  if (!kCountsTraffic) GTEST_SKIP() << "only emulation counts bytes";
  for (const KvFormat format : {KvFormat::kBf16, KvFormat::kQ8, KvFormat::kTurbo4}) {
    const KvShape shape = {.num_kv_heads = 2, .k_format = format, .v_format = format};
    const AttentionBatch batch(shape, /*group=*/8, {CausalRows(256, 4)});
    const StepResult got = RunDirectStep(batch, AllRows(batch), {});
    ASSERT_EQ(got.error, "");
    // Given 2 KV heads, 32 packed rows and 256 positions; each of 4 warps reads scales.
    const double scales = KvHasScale(format) ? 4 * 2.0 : 0.0;
    const double codes = static_cast<double>(KvRowBytes(format, 256));
    const double read = 2 * (256 * 2 * (codes + scales) + 32 * (2 * 256 + 8));
    EXPECT_LE(got.direct.read, 1.05 * read);
    EXPECT_GE(got.direct.read, read);
    EXPECT_EQ(got.direct.written, 2 * 32 * 2 * 256);
  }
}

}  // namespace
}  // namespace tandem::kernels
