// Which of the engine's answers count.
#include "scheduler/segment_result.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <utility>
#include <vector>

namespace tandem::scheduler {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const engine::SamplingParams kParams;

// A prompt's end with two scores, a decoder that verifies 21, 22, 23 behind its newest token 20,
// and a plain decoder; guesses are asked for behind the last two.
struct ThreeSegments {
  engine::StepBatch batch;
  engine::StepResult result;

  ThreeSegments() {
    batch.ids = {10, 11, 12, 20, 21, 22, 23, 30};
    batch.positions = {0, 1, 2, 7, 8, 9, 10, 5};
    int next_row = 0;
    for (const auto& [rows, drafts] : {std::pair(3, 0), std::pair(4, 3), std::pair(1, 0)}) {
      engine::Segment& segment = batch.segments.emplace_back();
      segment.row_begin = next_row;
      segment.num_rows = rows;
      segment.num_drafts = drafts;
      next_row += rows;
    }
    for (const int row : {0, 1}) batch.samples.push_back({.row = row, .score_id = 11 + row});
    for (const int row : {2, 3, 4, 5, 6, 7}) {
      batch.samples.push_back({.row = row, .params = &kParams});
    }
    for (const int segment : {1, 2}) {
      engine::DraftRequest& request = batch.drafts.emplace_back();
      request.segment = segment;
      request.max_tokens = segment + 1;
    }
    Answer({11, 12, 13, 21, 22, 23, 24, 31});
    result.drafts = {{.ids = {41, 42}}, {}};
  }
  void Answer(const std::vector<int>& ids) {
    result.tokens.clear();
    for (const int id : ids) result.tokens.push_back({.id = id});
  }
  std::vector<int> Drawn(int segment) {
    std::vector<int> ids;
    const std::vector<SegmentResult> results = ResultsBySegment(batch, result);
    for (const engine::SampledToken& token : results[segment].drawn) ids.push_back(token.id);
    return ids;
  }
};

TEST(SegmentResultTest, TokensCountUntilTheFirstThatDiffersFromTheGuessBehindIt) {
  ThreeSegments step;
  EXPECT_THAT(step.Drawn(1), ElementsAre(21, 22, 23, 24));  // all held, and the bonus token
  step.Answer({11, 12, 13, 21, 22, 29, 24, 31});
  EXPECT_THAT(step.Drawn(1), ElementsAre(21, 22, 29));
  step.Answer({11, 12, 13, 29, 22, 23, 24, 31});  // agreeing later means nothing
  EXPECT_THAT(step.Drawn(1), ElementsAre(29));
}

TEST(SegmentResultTest, ARowThatIsNotFiniteIsTheLastOfItsRun) {
  ThreeSegments step;
  step.result.tokens[4].finite = false;
  EXPECT_THAT(step.Drawn(1), ElementsAre(21, 22));
  EXPECT_FALSE(ResultsBySegment(step.batch, step.result)[1].drawn.back().finite);
}

TEST(SegmentResultTest, ScoresDrawsAndDraftsAreToldApartBySegment) {
  ThreeSegments step;
  const std::vector<SegmentResult> results = ResultsBySegment(step.batch, step.result);
  ASSERT_EQ(results.size(), 3u);
  EXPECT_EQ(results[0].scores.size(), 2u);
  EXPECT_EQ(results[0].scores[1].id, 12);
  EXPECT_THAT(step.Drawn(0), ElementsAre(13));
  EXPECT_EQ(results[0].draft, nullptr);
  EXPECT_THAT(results[1].scores, IsEmpty());
  EXPECT_EQ(results[1].draft, &step.result.drafts[0]);
  EXPECT_THAT(step.Drawn(2), ElementsAre(31));
  EXPECT_EQ(results[2].draft, &step.result.drafts[1]);
}

TEST(ResultsBySegmentTest, BrokenRowsAreToldOfTheirSegmentAlone) {
  ThreeSegments step;
  step.result.broken_segments = {1};
  const std::vector<SegmentResult> results = ResultsBySegment(step.batch, step.result);
  EXPECT_FALSE(results[0].broken_rows);
  EXPECT_TRUE(results[1].broken_rows);
  EXPECT_FALSE(results[2].broken_rows);
}

TEST(CheckResultTest, RefusesWhatWasNotAskedForAndIdsOutsideTheVocabulary) {
  const struct {
    std::function<void(ThreeSegments&)> spoil;
    const char* message;  // null: accepted
  } cases[] = {
      {[](ThreeSegments&) {}, nullptr},
      {[](ThreeSegments& s) { s.result.tokens.pop_back(); }, "7 tokens for 8 samples"},
      {[](ThreeSegments& s) { s.result.tokens[0].id = 50; }, "token id 50 of a vocabulary of 50"},
      {[](ThreeSegments& s) { s.result.tokens[7].id = -1; }, "token id -1"},
      {[](ThreeSegments& s) { s.result.tokens[7] = {.id = -1, .finite = false}; }, nullptr},
      {[](ThreeSegments& s) { s.result.tokens[6].id = 99; }, "token id 99"},
      // Behind a guess that did not hold nothing was drawn.
      {[](ThreeSegments& s) {
         s.Answer({11, 12, 13, 21, 29, -1, 99, 31});
       },
       nullptr},
      {[](ThreeSegments& s) { s.result.drafts.pop_back(); }, "1 drafts where 2"},
      {[](ThreeSegments& s) {
         s.result.drafts[0].ids = {1, 2, 3};
       },
       "3 tokens where 2"},
      {[](ThreeSegments& s) {
         s.result.drafts[1].ids = {1, 2, 50};
       },
       "token id 50"},
      {[](ThreeSegments& s) { s.result.drafts[1].ids = {-3}; }, "token id -3"},
      {[](ThreeSegments& s) {
         s.result.drafts[1].ids = {1, 2, 3};
       },
       nullptr},
      {[](ThreeSegments& s) {
         s.result.broken_segments = {0, 2};
       },
       nullptr},
      {[](ThreeSegments& s) { s.result.broken_segments = {3}; }, "broken segment 3"},
      {[](ThreeSegments& s) { s.result.broken_segments = {-1}; }, "broken segment -1"},
      {[](ThreeSegments& s) {
         s.result.broken_segments = {1, 1};
       },
       "broken segment 1"},
  };
  for (const auto& c : cases) {
    ThreeSegments step;
    c.spoil(step);
    const absl::Status status = CheckResult(step.batch, step.result, 50);
    EXPECT_EQ(status.ok(), c.message == nullptr) << status;
    if (c.message != nullptr) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
      EXPECT_THAT(status.message(), HasSubstr(c.message));
    }
  }
}

}  // namespace
}  // namespace tandem::scheduler
