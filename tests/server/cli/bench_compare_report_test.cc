#include "server/cli/bench_compare_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace tandem::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

CompareFacts Facts() {
  return {.bench = {.command_line = "tandem bench model --compare spec-mode=off",
                    .version = "0.1.0",
                    .commit = "abc",
                    .date = "2026-11-21T18:00:00Z",
                    .cpu = "a CPU",
                    .model = "m"},
          .a = "spec-mode=auto, spec-max-draft=3",
          .b = "spec-mode=off",
          .prompts = "600 prompts of heldout.jsonl (json, sum)",
          .max_tokens = 64};
}

// 100 tokens in so many seconds.
GenerationRun Run(double seconds, bool drafted) {
  GenerationRun run = {.seconds = seconds, .tokens = 100};
  run.drafts.rounds = drafted ? 50 : 100;
  if (!drafted) return run;
  run.drafts.rounds_with_draft = 40;
  run.drafts.drafted = 80;
  run.drafts.accepted = 50;
  run.drafts.drafted_at = {40, 40};
  run.drafts.accepted_at = {30, 20};
  run.totals = {.steps = 50, .draft_steps = 80, .draft_us = 80'000.0, .draft_bytes = 80 * 5e6};
  return run;
}

// Ratios of 1.5, 2 and 1 to those of `slower` times as long.
ComparedTest Pairs(const std::string& task, int streams, double slower) {
  ComparedTest test = {.test = {.task = task, .streams = streams, .prompts = {0, 1}}};
  for (const double ratio : {1.5, 2.0, 1.0}) {
    test.a.push_back(Run(slower, true));
    test.b.push_back(Run(ratio, false));
  }
  return test;
}

std::vector<ComparedTest> Tests() {
  return {Pairs("all", 1, 1.0), Pairs("sum", 1, 1.2), Pairs("all", 16, 1.4), Pairs("sum", 16, 1.6)};
}

CompareYardsticks Yardsticks() {
  CompareYardsticks yardsticks = {.read_bytes_per_s = {10e9, 5e9, 10e9}};
  for (const double seconds : {1.0, 1.1, 1.2}) {
    const int rows = static_cast<int>(yardsticks.verification.size()) + 1;
    yardsticks.verification.push_back({.test = {.generate_tokens = 10, .rows = rows},
                                       .seconds = {seconds, 2 * seconds, seconds},
                                       .yardsticks = {},
                                       .steps = 10});
  }
  return yardsticks;
}

TEST(PairRatioTest, ItIsTheMedianOfThePairsWithItsRange) {
  const PairRatio ratio = RatioOf(Pairs("all", 1, 1.0));
  EXPECT_DOUBLE_EQ(ratio.median, 1.5);
  EXPECT_DOUBLE_EQ(ratio.least, 1.0);
  EXPECT_DOUBLE_EQ(ratio.most, 2.0);
}

TEST(DraftStepTest, ItsTimeIsHeldAgainstItsBytesAtTheBandwidthOfItsMoment) {
  // 5 MB in 1 ms: 0.5 ms at 10 GB/s, 1 ms at 5 GB/s.
  const DraftStepFigures step = DraftStepOf(Pairs("all", 1, 1.0).a, {10e9, 5e9, 10e9});
  EXPECT_DOUBLE_EQ(step.us, 1000.0);
  EXPECT_DOUBLE_EQ(step.bytes, 5e6);
  EXPECT_DOUBLE_EQ(step.ratio, 2.0);
  EXPECT_EQ(DraftStepOf(Pairs("all", 1, 1.0).a, {0, 0, 0}).ratio, 0.0);
  EXPECT_EQ(DraftStepOf(Pairs("all", 1, 1.0).b, {10e9, 5e9, 10e9}).us, 0.0);
}

TEST(PairsReportTest, ClassesAndStreamsStandInATableAndWhatIsBelowThePromiseIsNamed) {
  const std::string text = PairsReport(Facts(), Tests(), Yardsticks(), "md");
  EXPECT_THAT(text, AllOf(HasSubstr("# Drafts of m: spec-mode=auto, spec-max-draft=3 against "
                                    "spec-mode=off"),
                          HasSubstr("| A / B | 1 stream | 16 streams |"),
                          HasSubstr("| all   |     1.50 |       1.07 |"),
                          HasSubstr("| sum   |     1.25 |       0.94 |")));
  EXPECT_THAT(
      text, HasSubstr("Least: 0.937 (sum, 16 streams). Below 0.97:\n\n- sum, 16 streams: 0.937\n"));
  EXPECT_THAT(text,
              HasSubstr("| all     |       1 |   100.0 |    66.7 | 1.500 | 1.000 to 2.000 |"));
  EXPECT_THAT(text, AllOf(HasSubstr("`tandem bench model --compare spec-mode=off`"),
                          HasSubstr("2026-11-21"), HasSubstr("a CPU"), HasSubstr("abc")));
}

TEST(PairsReportTest, WhenNothingIsBelowThePromiseItSaysSo) {
  EXPECT_THAT(PairsReport(Facts(), {Pairs("all", 1, 1.0), Pairs("sum", 1, 1.2)}, {}, "md"),
              HasSubstr("Least: 1.250 (sum, 1 stream). Below 0.97: none."));
}

TEST(PairsReportTest, DraftsAreCountedOverAllPairs) {
  const std::string text = PairsReport(Facts(), Tests(), Yardsticks(), "md");
  EXPECT_THAT(text, HasSubstr("| all     |       1 | A    |         2.00 |   62.5 % | 75 / 50 %   "
                              "|    2.00 |      80.0 % |"));
  EXPECT_THAT(text, Not(HasSubstr("| B    |")));
}

TEST(PairsReportTest, TheCostsOfAGuessStandBesideTheRatios) {
  const std::string text = PairsReport(Facts(), Tests(), Yardsticks(), "md");
  EXPECT_THAT(text, HasSubstr("A forward of the assistant takes 1.000 ms (all, 1 stream):\n2.00 "
                              "times what its 5.00 MB take at the 10.0 GB/s"));
  EXPECT_THAT(text, HasSubstr("|             3 |     120.000 |        1.20 |"));
}

TEST(PairsReportTest, AnAssumedAcceptanceIsInTheTitle) {
  CompareFacts facts = Facts();
  facts.chances = {0.8, 0.6};
  const std::string text = PairsReport(facts, Tests(), Yardsticks(), "md");
  EXPECT_TRUE(text.starts_with("# Drafts of m if guesses held with a chance of 0.8, 0.6 (assumed)"))
      << text;
  EXPECT_THAT(text, HasSubstr("ASSUMED, not measured"));
  EXPECT_THAT(PairsReport(Facts(), Tests(), Yardsticks(), "md"), Not(HasSubstr("ASSUMED")));
}

TEST(PairsReportTest, LinesFitATerminal) {
  CompareFacts facts = Facts();
  facts.chances = {0.8, 0.6};
  std::istringstream lines(PairsReport(facts, Tests(), Yardsticks(), "md"));
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
}

TEST(PairsReportTest, JsonHasTheSameFigures) {
  const nlohmann::json json =
      nlohmann::json::parse(PairsReport(Facts(), Tests(), Yardsticks(), "json"), nullptr, false);
  ASSERT_FALSE(json.is_discarded());
  EXPECT_EQ(json["model"], "m");
  EXPECT_EQ(json["acceptance_is_assumed"], false);
  ASSERT_THAT(json["tests"], SizeIs(4));
  EXPECT_EQ(json["tests"][3]["task"], "sum");
  EXPECT_DOUBLE_EQ(json["tests"][0]["ratio"].get<double>(), 1.5);
  EXPECT_DOUBLE_EQ(json["tests"][0]["a"]["acceptance_at"][1].get<double>(), 0.5);
  EXPECT_DOUBLE_EQ(json["draft_step"]["times_its_bytes"].get<double>(), 2.0);
  EXPECT_DOUBLE_EQ(json["verification"][1]["times_one_row"].get<double>(), 1.1);
}

TEST(PairsReportTest, CsvHasALinePerTestAndAHeading) {
  const std::string text = PairsReport(Facts(), Tests(), Yardsticks(), "csv");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 5);
  EXPECT_THAT(text, HasSubstr(",sum,16,3,"));
}

}  // namespace
}  // namespace tandem::server
