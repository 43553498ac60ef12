#include "server/cli/kv_quality.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/cli/kv_quality_report.h"
#include "tests/engine/engine_rig.h"

namespace tandem::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

KvChoice Choice(const std::string& name) { return ParseKvChoice(name).value(); }

// A small checkpoint with sliding and full layers, loaded once, and texts longer than its window.
class KvQualityTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    backend_ = kernels::MakeCpuBackend({.threads = 2})->release();
    absl::StatusOr<engine::Model> model = engine::LoadCheckpoint(
        testing::GoldenDir("e4b-like") + "/target", {}, kernels::CpuOps(*backend_), nullptr);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = new engine::Model(*std::move(model));
  }
  static void TearDownTestSuite() {
    delete model_;
    kernels::CpuBackendDeleter()(backend_);
  }

  static std::vector<ScoredText> Texts() {
    std::vector<ScoredText> texts;
    for (int i = 0; i < 4; ++i) {
      ScoredText& text =
          texts.emplace_back(ScoredText{.task = i % 2 == 0 ? "even" : "odd", .first_scored = 10});
      for (int p = 0; p < 40 + 50 * i; ++p) text.ids.push_back((p * 37 + i * 101) % 1000 + 7);
    }
    return texts;
  }

  static absl::StatusOr<QualityResult> Compare(const std::string& reference,
                                               const std::vector<std::string>& formats,
                                               std::vector<ScoredText> texts = Texts()) {
    QualityPlan plan = {.reference = Choice(reference), .texts = std::move(texts)};
    for (const std::string& format : formats) plan.formats.push_back(Choice(format));
    return CompareFormats(*model_, kernels::CpuOps(*backend_), plan, nullptr);
  }

  static kernels::CpuBackend* backend_;
  static engine::Model* model_;
};
kernels::CpuBackend* KvQualityTest::backend_ = nullptr;
engine::Model* KvQualityTest::model_ = nullptr;

TEST_F(KvQualityTest, AFormatAgreesWithItselfToTheBit) {
  const absl::StatusOr<QualityResult> result = Compare("turbo4", {"turbo4", "bf16"});
  ASSERT_TRUE(result.ok()) << result.status();
  const DivergenceFigures same = FiguresOf(result->formats[0].all);
  EXPECT_EQ(same.positions, 30 + 80 + 130 + 180);
  EXPECT_EQ(same.same_top, same.positions);
  EXPECT_EQ(same.max_kl, 0.0);
  EXPECT_EQ(same.max_abs, 0.0);
  EXPECT_EQ(result->formats[0].same_texts, 4);
  EXPECT_GT(FiguresOf(result->formats[1].all).mean_kl, 0.0);
}

TEST_F(KvQualityTest, FewerBitsAreFurtherAway) {
  const absl::StatusOr<QualityResult> result =
      Compare("bf16", {"f32", "q8", "turbo4", "turbo3", "turbo2"});
  ASSERT_TRUE(result.ok()) << result.status();
  std::vector<double> kl;
  for (const FormatQuality& format : result->formats) kl.push_back(FiguresOf(format.all).mean_kl);
  EXPECT_GT(kl[0], 0.0);
  EXPECT_LT(kl[0], kl[2]);
  EXPECT_LT(kl[1] * 3, kl[2]);
  EXPECT_LT(kl[2], kl[3]);
  EXPECT_LT(kl[3], kl[4]);
  const FormatQuality& turbo2 = result->formats[4];
  EXPECT_LT(FiguresOf(turbo2.all).same_top, result->positions);
  EXPECT_LT(turbo2.same_texts, 4);
}

TEST_F(KvQualityTest, ClassesAndRangesShareOutThePositions) {
  const absl::StatusOr<QualityResult> result = Compare("bf16", {"q8"});
  ASSERT_TRUE(result.ok()) << result.status();
  const FormatQuality& q8 = result->formats[0];
  EXPECT_THAT(result->tasks, ElementsAre("even", "odd"));
  EXPECT_EQ(q8.by_task[0].kl.size(), 30u + 130u);
  EXPECT_EQ(q8.by_task[1].kl.size(), 80u + 180u);
  // Rows from 10 on, of texts of 40, 90, 140 and 190: in 0-31, 32-63, 64-127 and 128-255.
  ASSERT_EQ(q8.by_range.size(), 4u);
  EXPECT_EQ(q8.by_range[0].kl.size(), 4u * 22);
  EXPECT_EQ(q8.by_range[1].kl.size(), 8u + 3 * 32);
  EXPECT_EQ(q8.by_range[2].kl.size(), 26u + 2 * 64);
  EXPECT_EQ(q8.by_range[3].kl.size(), 12u + 62);
  EXPECT_EQ(result->positions, 420);
}

TEST_F(KvQualityTest, ATextIsComparedAsItWouldBeAlone) {
  const absl::StatusOr<QualityResult> all = Compare("bf16", {"turbo3"});
  const absl::StatusOr<QualityResult> last = Compare("bf16", {"turbo3"}, {Texts()[3]});
  ASSERT_TRUE(all.ok() && last.ok());
  const std::vector<double>& kl = all->formats[0].all.kl;
  const std::vector<double>& alone = last->formats[0].all.kl;
  ASSERT_EQ(alone.size(), 180u);
  EXPECT_EQ(std::vector<double>(kl.end() - 180, kl.end()), alone);
}

TEST_F(KvQualityTest, BytesAreThoseOfTheBlocks) {
  const absl::StatusOr<QualityResult> result =
      Compare("bf16", {"q8", "turbo4", "turbo3", "turbo2"});
  ASSERT_TRUE(result.ok()) << result.status();
  const double bf16 = result->reference.all_bytes_per_token();
  const double most[] = {0.51, 0.26, 0.20, 0.14};
  for (int i = 0; i < 4; ++i) {
    EXPECT_LE(result->formats[i].all_bytes_per_token() / bf16, most[i]) << i;
    EXPECT_GT(result->formats[i].bytes_per_token[engine::kSliding], 0.0);
    EXPECT_GT(result->formats[i].bytes_per_token[engine::kFull], 0.0);
  }
}

TEST_F(KvQualityTest, ProtectionThatLeavesNoLayerIsRefusedByTheNameOfThePreset) {
  KvChoice all = Choice("compact");
  all.formats.protect_first = 100;
  const absl::StatusOr<QualityResult> result =
      CompareFormats(*model_, kernels::CpuOps(*backend_),
                     {.reference = Choice("bf16"), .formats = {all}, .texts = Texts()}, nullptr);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("compact"));
}

TEST_F(KvQualityTest, TheReportHasFloorClassesRangesAndCounts) {
  const absl::StatusOr<QualityResult> result = Compare("bf16", {"f32", "turbo2"});
  ASSERT_TRUE(result.ok()) << result.status();
  const QualityFacts facts = {
      .bench = {.command_line = "tandem bench kv-quality --formats f32,turbo2", .model = "m"},
      .prompts = "4 prompts (even, odd)",
      .max_tokens = 8,
      .block_tokens = 32};
  const std::string text = QualityReport(facts, *result, "md");
  for (const char* part :
       {"# KV formats of m against bf16", "tandem bench kv-quality --formats", "| turbo2 ",
        "The floor is the row f32", "even: KL", "128-255: KL", "420 positions scored", " of 4 |"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  const auto json = nlohmann::json::parse(QualityReport(facts, *result, "json"));
  EXPECT_EQ(json["positions"], 420);
  const auto& turbo2 = json["formats"][1];
  EXPECT_EQ(turbo2["format"], "turbo2");
  EXPECT_EQ(turbo2["positions"], 420);
  int64_t same = 0;
  for (const auto& range : turbo2["ranges"]) same += range["same_top"].get<int64_t>();
  EXPECT_EQ(turbo2["same_top"], same);
  EXPECT_GT(turbo2["mean_kl"], json["formats"][0]["mean_kl"]);
  const std::string plot = QualityPlot(facts, *result);
  EXPECT_THAT(plot, HasSubstr(">turbo2</text>"));
  EXPECT_THAT(plot, HasSubstr(">bf16 (from f32)</text>"));
  EXPECT_THAT(plot, Not(HasSubstr(">f32</text>")));
}

TEST(PositionRangesTest, EachIsTwiceAsLongAsTheOneBefore) {
  EXPECT_TRUE(PositionRanges(0).empty());
  EXPECT_EQ(PositionRanges(32).size(), 1u);
  const std::vector<PositionRange> ranges = PositionRanges(65);
  ASSERT_EQ(ranges.size(), 3u);
  EXPECT_EQ(ranges[1].begin, 32);
  EXPECT_EQ(ranges[1].end, 64);
  EXPECT_EQ(ranges[2].end, 128);
}

}  // namespace
}  // namespace tandem::server
