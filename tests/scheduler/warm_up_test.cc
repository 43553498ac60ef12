// The steps that are run before the first request, and the model that comes of them.
#include "scheduler/warm_up.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tandem::scheduler {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// An engine that takes 1000 us and 20 per row for a step, and 100 us and 5 per slot for a forward
// of the drafter; the first time that it sees a shape, ten times as much.
struct SimEngine {
  SchedulerConfig config = {.max_slots = 16, .max_step_rows = 64, .max_draft_tokens = 4};
  ModelLimits limits = {.vocab_size = 1000,
                        .max_context = 100,
                        .window = 20,
                        .block_tokens = 4,
                        .num_blocks = {100, 100}};
  int64_t now_us = 0;
  std::map<std::pair<int, int>, int> seen;  // by rows and drafting slots
  std::vector<int> rows;                    // per step
  std::vector<std::string> errors;
  absl::Status status;

  void Check(bool right, const std::string& what) {
    if (!right) errors.push_back(absl::StrCat("step ", rows.size(), ": ", what));
  }

  // The contract of engine/step.h.
  void CheckBatch(const engine::StepBatch& batch) {
    Check(batch.ids.size() == batch.positions.size(), "positions");
    Check(static_cast<int>(batch.ids.size()) <= config.max_step_rows, "rows");
    Check(static_cast<int>(batch.segments.size()) <= config.max_slots, "sequences");
    for (const int32_t id : batch.ids) Check(id >= 0 && id < limits.vocab_size, "id");
    std::array<std::set<int32_t>, engine::kNumKvGroups> taken;
    int next_row = 0;
    size_t next_sample = 0;
    for (const engine::Segment& segment : batch.segments) {
      Check(segment.row_begin == next_row && segment.num_rows > 0, "segment");
      Check(segment.num_drafts < segment.num_rows, "drafts");
      Check(segment.num_drafts <= config.max_draft_tokens, "draft length");
      next_row += segment.num_rows;
      for (int row = segment.row_begin; row < next_row; ++row) {
        const int behind = row - segment.row_begin;
        Check(batch.positions[row] == batch.positions[segment.row_begin] + behind, "position");
        if (behind < segment.num_rows - 1 - segment.num_drafts) continue;
        if (next_sample == batch.samples.size()) return Check(false, "a row without a sample");
        const engine::SampleRequest& sample = batch.samples[next_sample++];
        Check(sample.row == row && sample.params != nullptr, "sample");
        Check(sample.position == batch.positions[row] + 1, "position of a sample");
        Check(std::equal(sample.drafted.begin(), sample.drafted.end(),
                         batch.ids.begin() + segment.row_begin + 1, batch.ids.begin() + row + 1),
              "drafted ids");
      }
      for (int g = 0; g < engine::kNumKvGroups; ++g) {
        const int blocks = static_cast<int>(segment.block_table[g].size());
        if (limits.num_blocks[g] == 0) {
          Check(blocks == 0, "blocks of a group that the model does not have");
          continue;
        }
        Check(blocks * limits.block_tokens > batch.positions[next_row - 1], "blocks");
        for (const int32_t block : segment.block_table[g]) {
          Check(block >= 0 && block < limits.num_blocks[g], "block");
          Check(taken[g].insert(block).second, "a block of two sequences");
        }
      }
    }
    Check(next_row == static_cast<int>(batch.ids.size()), "rows of no segment");
    Check(next_sample == batch.samples.size(), "samples");
    int last_segment = -1;
    for (const engine::DraftRequest& request : batch.drafts) {
      Check(request.segment > last_segment, "order of drafts");
      last_segment = request.segment;
      Check(request.segment < static_cast<int>(batch.segments.size()), "segment of a draft");
      Check(request.max_tokens >= 1 && request.max_tokens <= config.max_draft_tokens, "draft");
      const engine::Segment& segment = batch.segments[request.segment];
      const int known = batch.positions[segment.row_begin] + segment.num_rows - segment.num_drafts;
      Check(static_cast<int>(request.prompt.size() + request.output.size()) == known, "known ids");
    }
  }

  absl::Status Run(const engine::StepBatch& batch, engine::StepResult& result) {
    CheckBatch(batch);
    const int num_rows = static_cast<int>(batch.ids.size());
    const int slots = static_cast<int>(batch.drafts.size());
    rows.push_back(num_rows);
    const int64_t times = seen[{num_rows, slots}]++ == 0 ? 10 : 1;
    if (slots > 0) {
      result.draft_steps = batch.drafts[0].max_tokens;
      result.draft_us = times * result.draft_steps * (100 + 5 * slots);
    }
    now_us += times * (1000 + 20 * num_rows) + result.draft_us;
    return status;
  }

  CostModel Measure(int64_t budget_us) {
    return MeasureCosts([this](const engine::StepBatch& batch,
                               engine::StepResult& result) { return Run(batch, result); },
                        config, limits, [this] { return now_us; }, budget_us);
  }
};

double DraftUs(const CostModel& model, int slots) {
  std::vector<double> us(slots + 1);
  DraftStepsUs(model, us);
  return us[slots];
}

TEST(WarmUpTest, MeasuresStepsAndDraftsOfRisingSize) {
  SimEngine engine;
  const CostModel model = engine.Measure(1'000'000);
  EXPECT_THAT(engine.errors, IsEmpty());
  // Then all sizes are known, without what the first of each took.
  EXPECT_EQ(*std::max_element(engine.rows.begin(), engine.rows.end()), 64);
  for (const int rows : {1, 2, 3, 5, 16, 40, 64, 80}) {
    EXPECT_NEAR(DecodeStepUs(model, rows), 1000 + 20 * rows, 1) << rows;
  }
  for (const int slots : {1, 3, 16, 20}) EXPECT_NEAR(DraftUs(model, slots), 100 + 5 * slots, 1);
  EXPECT_EQ(model.speed, 1.0);
}

TEST(WarmUpTest, AStallDoesNotCount) {
  SimEngine engine;
  const CostModel model = MeasureCosts(
      [&](const engine::StepBatch& batch, engine::StepResult& result) {
        if (engine.rows.size() == 5 || engine.rows.size() == 31) engine.now_us += 50'000;
        return engine.Run(batch, result);
      },
      engine.config, engine.limits, [&] { return engine.now_us; }, 1'000'000);
  for (const int rows : {1, 2, 3, 4, 6, 8, 64}) {
    EXPECT_NEAR(DecodeStepUs(model, rows), 1000 + 20 * rows, 1) << rows;
  }
}

TEST(WarmUpTest, StaysWithinItsTimeAndMeasuresTheSmallOnesFirst) {
  SimEngine engine;
  const CostModel model = engine.Measure(50'000);
  // The step that runs over the time is the last.
  EXPECT_LT(engine.now_us, 50'000 + 10 * (1000 + 20 * 64));
  EXPECT_EQ(engine.rows.front(), 1);
  EXPECT_TRUE(std::is_sorted(engine.rows.begin(), engine.rows.end()));
  EXPECT_LT(engine.rows.back(), 8);
  EXPECT_NEAR(DecodeStepUs(model, 1), 1020, 1);
  EXPECT_NEAR(DraftUs(model, 1), 105, 1);
  EXPECT_NEAR(DecodeStepUs(model, 64), 1000 + 20 * 64, 1);  // on with the last slope
  EXPECT_EQ(DecodeStepUs(SimEngine().Measure(0), 1), 0);
}

TEST(WarmUpTest, WithoutADrafterNothingIsRun) {
  SimEngine engine;
  engine.config.max_draft_tokens = 0;
  engine.Measure(1'000'000);
  EXPECT_THAT(engine.rows, IsEmpty());
}

TEST(WarmUpTest, KeepsToSmallPoolsContextsAndVocabularies) {
  // Given a model without sliding layers, five blocks of two tokens, and drafts of up to four: rows
  // of one sequence.
  SimEngine engine;
  engine.limits = {.vocab_size = 3, .max_context = 9, .block_tokens = 2, .num_blocks = {0, 5}};
  const CostModel model = engine.Measure(1'000'000);
  EXPECT_THAT(engine.errors, IsEmpty());
  EXPECT_EQ(*std::max_element(engine.rows.begin(), engine.rows.end()), 4);
  EXPECT_NEAR(DecodeStepUs(model, 4), 1080, 1);
  // A context of two tokens, and no block for a single sequence.
  engine.limits.max_context = 2;
  engine.Measure(1'000'000);
  engine.limits = {.vocab_size = 3, .max_context = 9, .block_tokens = 1, .num_blocks = {0, 4}};
  engine.rows.clear();
  engine.Measure(1'000'000);
  EXPECT_THAT(engine.errors, IsEmpty());
  // And a drafter of one token.
  engine = {};
  engine.config.max_draft_tokens = 1;
  EXPECT_NEAR(DraftUs(engine.Measure(1'000'000), 4), 120, 1);
  EXPECT_THAT(engine.errors, IsEmpty());
}

TEST(WarmUpTest, AStepThatFailsEndsIt) {
  SimEngine engine;
  engine.status = absl::InternalError("the device is lost");
  const CostModel model = engine.Measure(1'000'000);
  EXPECT_THAT(engine.rows, ElementsAre(1));
  EXPECT_EQ(DecodeStepUs(model, 1), 0);
}

}  // namespace
}  // namespace tandem::scheduler
