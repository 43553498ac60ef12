#include "server/cli/status_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(StatusLineTest, AnIdleServerIsSilent) {
  scheduler::SchedulerStats stats;
  stats.steps_total = 7;
  stats.generated_tokens_total = 100;
  EXPECT_EQ(MakeStatusLine(stats, stats, 10.0), std::nullopt);
}

TEST(StatusLineTest, RatesAreOfTheTimeBetweenTheSnapshots) {
  scheduler::SchedulerStats before;
  before.prompt_tokens_total = 1000;
  before.generated_tokens_total = 50;
  scheduler::SchedulerStats now = before;
  now.prompt_tokens_total += 5120;
  now.generated_tokens_total += 241;
  now.running = 4;
  now.queued_requests = 2;
  now.blocks_total = {100, 200};
  now.blocks_used = {18, 20};
  const auto line = MakeStatusLine(before, now, 10.0);
  ASSERT_TRUE(line.has_value());
  EXPECT_EQ(line->text, "in 512.0 tok/s  out 24.1 tok/s  running 4  waiting 2  KV 18 %");
  EXPECT_THAT(line->event, HasSubstr("prompt_tok_per_s=512.0 generation_tok_per_s=24.1"));
}

TEST(StatusLineTest, DraftsOfTheTimeBetweenTheSnapshotsAreReportedByPosition) {
  // Given drafts before, of which none held, and eight rounds since: four with a draft of two.
  scheduler::SchedulerStats before;
  before.drafts = {.rounds = 9, .rounds_with_draft = 9, .drafted = 9};
  before.drafts.drafted_at = {9};
  scheduler::SchedulerStats now = before;
  now.steps_total = 8;
  now.drafts.rounds += 8;
  now.drafts.rounds_with_draft += 4;
  now.drafts.drafted += 8;
  now.drafts.accepted += 4;
  now.drafts.drafted_at = {9 + 4, 4};
  now.drafts.accepted_at = {3, 1};
  const auto line = MakeStatusLine(before, now, 10.0);
  ASSERT_TRUE(line.has_value());
  EXPECT_THAT(line->text, HasSubstr("KV 0 %  drafts held 75/25 %  1.5 tok/round"));
  EXPECT_THAT(line->event, HasSubstr("drafted=8 accepted=4"));
  // Without drafts since, nothing is said of them.
  scheduler::SchedulerStats later = now;
  later.steps_total = 9;
  EXPECT_THAT(MakeStatusLine(now, later, 10.0)->text, Not(HasSubstr("drafts")));
}

TEST(StatusLineTest, TheShareOfPromptsThatWasCachedIsOfTheTimeBetweenTheSnapshots) {
  // Given prompts before, of which nothing was found, and 4000 tokens since, of which 3000 were.
  scheduler::SchedulerStats before;
  before.prefix_query_tokens_total = 10'000;
  scheduler::SchedulerStats now = before;
  now.steps_total = 8;
  now.prefix_query_tokens_total += 4000;
  now.prefix_hit_tokens_total += 3000;
  const auto line = MakeStatusLine(before, now, 10.0);
  ASSERT_TRUE(line.has_value());
  EXPECT_THAT(line->text, HasSubstr("KV 0 %  75 % of prompts cached"));
  EXPECT_THAT(line->event, HasSubstr("prefix_query_tokens=4000 prefix_hit_tokens=3000"));
  // Where nothing is found, nothing is said.
  scheduler::SchedulerStats later = now;
  later.steps_total = 9;
  later.prefix_query_tokens_total += 4000;
  EXPECT_THAT(MakeStatusLine(now, later, 10.0)->text, Not(HasSubstr("cached")));
}

TEST(StatusLineTest, WorkThatBeganAndEndedInBetweenIsReported) {
  scheduler::SchedulerStats before;
  scheduler::SchedulerStats now;
  now.steps_total = 3;
  EXPECT_TRUE(MakeStatusLine(before, now, 10.0).has_value());
}

}  // namespace
}  // namespace tandem::server
