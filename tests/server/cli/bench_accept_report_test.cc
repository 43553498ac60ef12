#include "server/cli/bench_accept_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace tandem::server {
namespace {

using scheduler::DraftReason;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

AcceptFacts Facts() {
  return {.bench = {.command_line = "tandem bench accept", .date = "2026-11-21", .model = "m"},
          .setting = "spec-mode=auto, spec-max-draft=3",
          .prompts = "4 prompts of a.jsonl (json, sum)",
          .streams = 1};
}

// 8 rounds: of 10 first guesses 8 held, of 5 second ones 1 held.
AcceptClass Class(const std::string& task) {
  AcceptClass result = {.task = task, .answers = 2};
  result.run.seconds = 2.0;
  result.run.tokens = 30;
  result.run.drafts.rounds = 18;
  result.run.drafts.rounds_with_draft = 10;
  result.run.drafts.drafted = 15;
  result.run.drafts.accepted = 9;
  result.run.drafts.drafted_at = {10, 5};
  result.run.drafts.accepted_at = {8, 1};
  result.run.totals = {.steps = 20,
                       .rows = 50,
                       .draft_steps = 15,
                       .plan_us = 200,
                       .target_us = 16000,
                       .draft_us = 3000,
                       .commit_us = 800,
                       .decode_tokens = 28,
                       .decode_us = 14000};
  result.policy.choices = 20;
  result.policy.by_length = {10, 5, 5};
  result.policy.by_reason[static_cast<int>(DraftReason::kPays)] = 9;
  result.policy.by_reason[static_cast<int>(DraftReason::kTrial)] = 1;
  result.policy.by_reason[static_cast<int>(DraftReason::kAcceptance)] = 10;
  result.policy.plain_tokens_per_s = {1000, 1100, 1200};
  result.policy.drafted_tokens_per_s = {1500, 1600, 1800};
  return result;
}

AcceptClass Idle(const std::string& task) {
  AcceptClass result = {.task = task, .answers = 2};
  result.run.seconds = 2.0;
  result.run.tokens = 30;
  result.run.drafts.rounds = 28;
  result.policy.choices = 20;
  result.policy.by_length = {20};
  result.policy.by_reason[static_cast<int>(DraftReason::kCost)] = 20;
  return result;
}

TEST(AcceptReportTest, EveryPositionIsHeldAgainstTheGuessesMadeThere) {
  const std::string text = AcceptReport(Facts(), {Class("json"), Idle("sum")}, "md");
  EXPECT_THAT(text, HasSubstr("# Acceptance of the drafts of m: spec-mode=auto, spec-max-draft=3"));
  EXPECT_THAT(text, HasSubstr("| json    |       2 |     30 |  15.0 |     18 |         1.50 |      "
                              "15 |        9 | 60.0 % |"));
  EXPECT_THAT(text, HasSubstr("| 1        | 80.0 % |   - | 80.0 % | ████████████████"));
  EXPECT_THAT(text, HasSubstr("| 2        | 20.0 % |   - | 20.0 % | ████ "));
  EXPECT_THAT(text, HasSubstr("| all     |       4 |     60 |"));
}

TEST(AcceptReportTest, TimeIsShownByPhase) {
  const std::string text = AcceptReport(Facts(), {Class("json")}, "md");
  EXPECT_THAT(text, HasSubstr("| 0.010 |  0.800 |  0.150 |  0.040 | 1.000 |  2.5 |    20 |"));
  EXPECT_THAT(text, HasSubstr("| 1.0 % | 80.0 % | 15.0 % |  4.0 % |"));
}

TEST(AcceptReportTest, TheChoicesAndTheirReasonsAreShownInWords) {
  const std::string text = AcceptReport(Facts(), {Class("json"), Idle("sum")}, "md");
  EXPECT_THAT(text, HasSubstr("| 0       | 50.0 % | 100.0 % | 75.0 % |"));
  EXPECT_THAT(text, HasSubstr("| 2       | 25.0 % |   0.0 % | 12.5 % |"));
  EXPECT_THAT(text, HasSubstr("| acceptance | 50.0 % |   0.0 % | 25.0 % |"));
  EXPECT_THAT(text, HasSubstr("- acceptance: none; guesses for this sequence held too rarely\n"));
  EXPECT_THAT(text, HasSubstr("- cost: none; even good guesses would cost more than they save\n"));
  EXPECT_THAT(text, Not(HasSubstr("- fixed:")));
  EXPECT_THAT(text, HasSubstr("1100.0 |               1600.0 |              2000.0 |"));
}

TEST(AcceptReportTest, WithoutAGuessNoPositionIsShown) {
  EXPECT_THAT(AcceptReport(Facts(), {Idle("sum")}, "md"), HasSubstr("Nothing was guessed."));
}

TEST(AcceptReportTest, LinesFitATerminal) {
  const std::string text =
      AcceptReport(Facts(), {Class("json"), Class("sequence"), Class("sum"), Idle("code")}, "md");
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto columns =
        std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xc0) != 0x80; });
    EXPECT_LE(columns, 100) << line;
  }
}

TEST(AcceptReportTest, JsonHasTheSameFigures) {
  const nlohmann::json json = nlohmann::json::parse(
      AcceptReport(Facts(), {Class("json"), Idle("sum")}, "json"), nullptr, false);
  ASSERT_FALSE(json.is_discarded());
  ASSERT_THAT(json["classes"], SizeIs(2));
  EXPECT_EQ(json["classes"][0]["positions"][1]["accepted"], 1);
  EXPECT_DOUBLE_EQ(json["classes"][0]["acceptance"].get<double>(), 0.6);
  EXPECT_EQ(json["classes"][0]["policy"]["by_reason"]["pays"], 9);
  EXPECT_EQ(json["all"]["tokens"], 60);
  EXPECT_DOUBLE_EQ(json["all"]["policy"]["plain_tok_per_s_predicted"].get<double>(), 1100.0);
}

TEST(PolicyCountsTest, OnlySequencesThatDrawATokenAreCounted) {
  // Given a step with one decoding sequence, one whose prompt ends in it, and a chunk before that.
  scheduler::StepRecord record;
  record.input.seated.resize(2);
  record.input.seated[0].known_tokens = 10;
  record.input.seated[1].known_tokens = 40;
  record.input.waiting.resize(1);
  record.input.waiting[0].known_tokens = 5;
  record.plan.decode = {{.seq = 0,
                         .first_position = 9,
                         .rows = 3,
                         .drafts = 2,
                         .guess = 2,
                         .reason = DraftReason::kPays}};
  record.plan.prefill = {
      {.seq = 1, .first_position = 0, .rows = 20},
      {.seq = 2, .first_position = 0, .rows = 5, .guess = 1, .reason = DraftReason::kTrial}};
  record.plan.plain_tokens_per_s = 100;
  record.plan.drafted_tokens_per_s = 150;
  PolicyCounts counts;
  // When it is counted.
  Count(counts, record);
  // Then the chunk is not a choice.
  EXPECT_EQ(counts.choices, 2);
  EXPECT_EQ(counts.by_length[2], 1);
  EXPECT_EQ(counts.by_length[1], 1);
  EXPECT_EQ(counts.by_reason[static_cast<int>(DraftReason::kPays)], 1);
  EXPECT_EQ(counts.by_reason[static_cast<int>(DraftReason::kTrial)], 1);
  EXPECT_THAT(counts.plain_tokens_per_s, ElementsAre(100));
}

}  // namespace
}  // namespace tandem::server
