// What a step does around its forward: copies of blocks before it, broken rows told behind it.
#include "engine/runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "tests/engine/kv_rows.h"

namespace tandem::testing {
namespace {

using engine::kFull;
using engine::kSliding;
using engine::KvGroup;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class BlockCopyTest : public ::testing::TestWithParam<const char*> {
 protected:
  EngineRig Rig() const {
    RigConfig config = {.threads = 1, .blocks = 16};
    SetNumbers(config, GetParam());
    return EngineRig(GoldenDir("e2b-like") + "/target", config);
  }
};

TEST_P(BlockCopyTest, ASequenceGoesOnInTheMiddleOfACopyAsInABlockOfItsOwn) {
  // Given a sequence of 20 rows, the last four of them in a block that is not full.
  EngineRig rig = Rig();
  std::vector<int32_t> ids = {2};
  for (int i = 0; i < 31; ++i) ids.push_back(200 + 7 * i);
  RigSequence first{.ids = {ids.begin(), ids.begin() + 20}};
  rig.Prefill(first, 16);
  // When another one takes its first block, a copy of the second, and goes on behind row 18.
  RigSequence second{.ids = ids, .done = 19};
  RigSequence fresh{.ids = ids};
  rig.Cover(fresh, 32);
  for (const KvGroup group : {kSliding, kFull}) {
    second.tables[group] = {first.tables[group][0], fresh.tables[group][1]};
    rig.copies.push_back({group, first.tables[group][1], second.tables[group][1]});
  }
  RigRun run{.sequence = &second, .rows = 13, .all_logits = true};
  rig.Step({&run, 1});
  // Then it says what a sequence with rows of its own says, and the first one is untouched.
  RigSequence alone{.ids = ids};
  RigRun whole{.sequence = &alone, .rows = 32, .all_logits = true};
  rig.Step({&whole, 1});
  for (int r = 0; r < 13; ++r) EXPECT_EQ(run.logits[r], whole.logits[19 + r]) << r;
  RigSequence shorter{.ids = first.ids};
  rig.Prefill(shorter, 20);
  EXPECT_EQ(rig.Decode(first, 333), rig.Decode(shorter, 333));
}

INSTANTIATE_TEST_SUITE_P(Formats, BlockCopyTest,
                         ::testing::Values("f32", "bf16", "q8", "turbo4/turbo3", "turbo2"),
                         [](const auto& info) { return FormatsTestName(info.param); });

TEST(RunnerTest, ACopyThatCanNotBeIsRefused) {
  EngineRig rig(GoldenDir("e4b-like") + "/target", {.threads = 1, .blocks = 4});
  const auto run = [&](engine::BlockCopy copy) {
    engine::StepBatch batch;
    batch.copies = {copy};
    engine::StepResult result;
    return rig.runner->Run(batch, result).code();
  };
  EXPECT_EQ(run({kFull, 0, 3}), absl::StatusCode::kOk);
  EXPECT_EQ(run({kFull, 0, 4}), absl::StatusCode::kInternal);
  EXPECT_EQ(run({kFull, -1, 2}), absl::StatusCode::kInternal);
  EXPECT_EQ(run({kSliding, 4, 2}), absl::StatusCode::kInternal);
  EXPECT_EQ(run({kSliding, 2, 2}), absl::StatusCode::kInternal);
}

constexpr int32_t kBad = 77;  // a token whose rows are not finite

// A model whose per-layer input of kBad is not finite: its row breaks in the first layer's last
// part, behind that layer's K and V.
class BrokenRowsTest : public ::testing::Test {
 protected:
  BrokenRowsTest()
      : rig(GoldenDir("e2b-like") + "/target", Config()),
        table(rig.model.config.ple_vocab * Width()) {
    std::memcpy(table.data(), rig.model.weights.ple_table, table.size() * sizeof(table[0]));
    std::fill_n(table.begin() + kBad * Width(), Width(), kernels::Bf16{0x7fc0});
    rig.model.weights.ple_table = table.data();
  }

  static RigConfig Config() {
    RigConfig config = {.threads = 2, .blocks = 16};
    SetNumbers(config, "q8");
    return config;
  }
  size_t Width() const {
    return static_cast<size_t>(rig.model.config.num_layers()) * rig.model.config.ple_width;
  }

  // Adds all rows of `sequence` from `done` on, the last `drafts` of them drafted.
  void Add(RigSequence& sequence, int drafts, const engine::SamplingParams& params) {
    const int rows = static_cast<int>(sequence.ids.size()) - sequence.done;
    rig.Cover(sequence, rows);
    batch.segments.push_back({.row_begin = static_cast<int>(batch.ids.size()),
                              .num_rows = rows,
                              .num_drafts = drafts,
                              .block_table = {sequence.tables[0], sequence.tables[1]}});
    for (int r = 0; r < rows; ++r) {
      batch.ids.push_back(sequence.ids[sequence.done + r]);
      batch.positions.push_back(sequence.done + r);
      if (r >= rows - 1 - drafts) {
        batch.samples.push_back({.row = static_cast<int>(batch.ids.size()) - 1,
                                 .params = &params,
                                 .position = sequence.done + r + 1});
      }
    }
  }

  EngineRig rig;
  std::vector<kernels::Bf16> table;
  const engine::SamplingParams greedy = {.temperature = 0.0f};
  engine::StepBatch batch;
  engine::StepResult result;
};

TEST_F(BrokenRowsTest, TheSegmentIsToldAndItsNeighboursAreWhatTheyAreWithoutIt) {
  RigSequence before{.ids = {5, 6, 7}}, bad{.ids = {5, kBad, 8, 9}}, behind{.ids = {11, 12}};
  Add(before, 0, greedy);
  Add(behind, 0, greedy);
  ASSERT_TRUE(rig.runner->Run(batch, result).ok());
  EXPECT_THAT(result.broken_segments, IsEmpty());
  const std::vector<engine::SampledToken> alone = result.tokens;
  batch = {};
  Add(before, 0, greedy);
  Add(bad, 0, greedy);
  Add(behind, 0, greedy);
  ASSERT_TRUE(rig.runner->Run(batch, result).ok());
  EXPECT_THAT(result.broken_segments, ElementsAre(1));
  EXPECT_EQ(result.tokens[0].id, alone[0].id);
  EXPECT_EQ(result.tokens[2].id, alone[1].id);
  // The last row does not see that one before it is lost: its own logits are finite.
  EXPECT_TRUE(result.tokens[1].finite);
  // One row of every layer that stores but the first: of two more sliding ones below the full one
  // and one above it.
  const auto& sliding = rig.runner->encode_counts(kSliding);
  const auto& full = rig.runner->encode_counts(kFull);
  for (const int side : {0, 1}) {
    EXPECT_EQ(sliding.nonfinite[side].load(), 3u);
    EXPECT_EQ(full.nonfinite[side].load(), 1u);
    EXPECT_EQ(sliding.clamped[side].load() + full.clamped[side].load(), 0u);
  }
}

TEST_F(BrokenRowsTest, AStepThatSamplesNothingTellsToo) {
  RigSequence bad{.ids = {5, kBad, 8, 9}};
  Add(bad, 0, greedy);
  batch.samples.clear();
  ASSERT_TRUE(rig.runner->Run(batch, result).ok());
  EXPECT_THAT(result.broken_segments, ElementsAre(0));
}

TEST_F(BrokenRowsTest, RowsBehindAGuessThatDidNotHoldDoNotCount) {
  engine::SamplingParams never = greedy, always = greedy;
  never.banned = {kBad};
  always.allowed = {kBad};
  RigSequence sequence{.ids = {5, 6, 7}};
  rig.Prefill(sequence, 3);
  // Given a draft of the bad token that does not hold.
  sequence.done = 2;
  sequence.ids.push_back(kBad);
  Add(sequence, 1, never);
  ASSERT_TRUE(rig.runner->Run(batch, result).ok());
  EXPECT_EQ(result.tokens[1].id, -1);
  EXPECT_THAT(result.broken_segments, IsEmpty());
  // And one that does.
  batch = {};
  Add(sequence, 1, always);
  ASSERT_TRUE(rig.runner->Run(batch, result).ok());
  EXPECT_EQ(result.tokens[0].id, kBad);
  EXPECT_FALSE(result.tokens[1].finite);
  EXPECT_THAT(result.broken_segments, ElementsAre(0));
}

// Formats without a scale store what comes; attention shows it.
TEST(PlainFormatTest, RowsThatAreNotFiniteAreStoredAndSeen) {
  EngineRig rig(GoldenDir("e2b-like") + "/target", {.threads = 1, .blocks = 8});
  auto* norm = const_cast<float*>(rig.model.weights.layers[2].input_norm);
  norm[0] = std::numeric_limits<float>::quiet_NaN();
  RigSequence sequence{.ids = {5, 6, 7}};
  rig.Cover(sequence, 3);
  const engine::SamplingParams greedy = {.temperature = 0.0f};
  engine::StepBatch batch = {.ids = sequence.ids, .positions = {0, 1, 2}};
  batch.segments.push_back(
      {.row_begin = 0, .num_rows = 3, .block_table = {sequence.tables[0], sequence.tables[1]}});
  batch.samples.push_back({.row = 2, .params = &greedy, .position = 3});
  engine::StepResult result;
  ASSERT_TRUE(rig.runner->Run(batch, result).ok());
  EXPECT_FALSE(result.tokens[0].finite);
  EXPECT_THAT(result.broken_segments, IsEmpty());
  EXPECT_EQ(rig.runner->encode_counts(kSliding).nonfinite[0].load(), 0u);
}

}  // namespace
}  // namespace tandem::testing
