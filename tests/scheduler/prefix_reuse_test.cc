// Rows that one request leaves to another: who finds them, who does not, and what is counted
// (turboquant.md 3.7; mtp.md T23, P-30, P-36, P-38). Blocks have 8 tokens, the window 20.
#include "scheduler/prefix_reuse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/scheduler/draft_rig.h"
#include "tests/scheduler/rig.h"

namespace tandem::scheduler {
namespace {

using testing::ElementsAre;

// Rows that ran since the last call.
int64_t RowsSince(const Rig& rig, int64_t& before) {
  const int64_t rows = rig.device->rows - before;
  before = rig.device->rows;
  return rows;
}

TEST(PrefixReuseTest, ASecondRequestRunsOnlyWhatIsNotInFullBlocks) {
  // Given a request of 50 prompt tokens that has ended.
  Rig rig;
  rig.Start();
  const Request request = rig.NewRequest(50, 1);
  rig.Submit(request);
  rig.Turns();
  int64_t rows = 0;
  EXPECT_EQ(RowsSince(rig, rows), 50);
  EXPECT_EQ(rig.Of(0).stats.cached_prompt_tokens, 0);
  // Then nothing is held, and its full blocks of both groups are kept: 48 tokens.
  EXPECT_THAT(rig.scheduler->stats().blocks_used, ElementsAre(0, 0));
  EXPECT_THAT(rig.scheduler->stats().blocks_cached, ElementsAre(6, 6));
  EXPECT_EQ(KvUsage(rig.scheduler->stats()), 0.0);
  // When it comes again.
  rig.Submit(request);
  rig.Turns();
  // Then two rows run, and the answer is the same.
  EXPECT_EQ(RowsSince(rig, rows), 2);
  EXPECT_EQ(rig.Of(1).stats.cached_prompt_tokens, 48);
  EXPECT_EQ(rig.Of(1).choices[0].ids, rig.Of(0).choices[0].ids);
  const SchedulerStats stats = rig.scheduler->stats();
  EXPECT_EQ(stats.prefix_query_tokens_total, 100);
  EXPECT_EQ(stats.prefix_hit_tokens_total, 48);
  EXPECT_EQ(stats.prompt_tokens_total, 52);
  EXPECT_EQ(stats.recomputed_tokens_total, 0);
  rig.ExpectAllRight();
}

TEST(PrefixReuseTest, TheLastTokenRunsEvenIfItsBlockIsFull) {
  Rig rig;
  rig.Start();
  const Request request = rig.NewRequest(48, 3);
  rig.Submit(request);
  rig.Turns();
  rig.Submit(request);
  rig.Turns();
  EXPECT_EQ(rig.Of(1).stats.cached_prompt_tokens, 40);
  rig.ExpectAllRight();
}

TEST(PrefixReuseTest, AConversationGoesOnBehindWhatWasGenerated) {
  // Given a request of 50 and 20 tokens, the last of which never was in the cache.
  Rig rig;
  rig.Start();
  Request request = rig.NewRequest(50, 20);
  rig.Submit(request);
  rig.Turns();
  // When its text comes back as the prompt of another one.
  const std::vector<int32_t> ids = rig.Of(0).choices[0].ids;
  request.prompt.insert(request.prompt.end(), ids.begin(), ids.end());
  request.prompt.insert(request.prompt.end(), {9, 8, 7});
  rig.Submit(request);
  rig.Turns();
  // Then 64 of 69 rows are found.
  EXPECT_EQ(rig.Of(1).stats.cached_prompt_tokens, 64);
  rig.ExpectAllRight();
}

TEST(PrefixReuseTest, AnotherBeginningSharesNothingAndAnotherEndingTheBeginning) {
  Rig rig;
  rig.Start();
  const Request request = rig.NewRequest(50, 1);
  Request other_end = request, other_begin = request;
  other_end.prompt[20] += 1;
  other_begin.prompt[0] += 1;
  for (const Request& each : {request, other_end, other_begin}) {
    rig.Submit(each);
    rig.Turns();
  }
  EXPECT_EQ(rig.Of(1).stats.cached_prompt_tokens, 16);
  EXPECT_EQ(rig.Of(2).stats.cached_prompt_tokens, 0);
  rig.ExpectAllRight();
}

// What of a first request's 50 tokens a second one finds.
struct Isolation {
  std::string name;
  PrefixCacheParams first, second;
  std::string tenant;  // of the second, the first has none
  bool per_tenant = false;
  bool prefix_cache = true;
  int cached = 0;
};

class IsolationTest : public testing::TestWithParam<Isolation> {};

TEST_P(IsolationTest, OnlyRequestsThatWantToShareWithEqualSaltAndTenantDo) {
  Rig rig;
  rig.config.prefix_cache = GetParam().prefix_cache;
  rig.config.prefix_cache_per_tenant = GetParam().per_tenant;
  rig.Start();
  Request first = rig.NewRequest(50, 4);
  Request second = first;
  first.prefix_cache = GetParam().first;
  second.prefix_cache = GetParam().second;
  second.tenant = GetParam().tenant;
  rig.Submit(first);
  rig.Turns();
  rig.Submit(second);
  rig.Turns();
  EXPECT_EQ(rig.Of(1).stats.cached_prompt_tokens, GetParam().cached);
  // And at the same time as one after the other.
  rig.scheduler->FlushPrefixCache([](int64_t) {});
  rig.Submit(first);
  rig.Submit(second);
  rig.Turns();
  EXPECT_EQ(rig.Of(3).stats.cached_prompt_tokens > 0, GetParam().cached > 0);
  rig.ExpectAllRight();
}

INSTANTIATE_TEST_SUITE_P(
    All, IsolationTest,
    testing::Values(
        Isolation{.name = "Plain", .cached = 48},
        Isolation{.name = "FirstDoesNotWrite", .first = {.write = false}},
        Isolation{.name = "FirstDoesNotRead", .first = {.read = false}, .cached = 48},
        Isolation{.name = "SecondDoesNotRead", .second = {.read = false}},
        Isolation{.name = "SecondDoesNotWrite", .second = {.write = false}, .cached = 48},
        Isolation{.name = "OtherSalt", .second = {.salt = "x"}},
        Isolation{
            .name = "SameSalt", .first = {.salt = "x"}, .second = {.salt = "x"}, .cached = 48},
        Isolation{.name = "OtherTenant", .tenant = "t", .cached = 48},
        Isolation{.name = "OtherTenantApart", .tenant = "t", .per_tenant = true},
        Isolation{.name = "SaltLikeTheOthersTenant",
                  .first = {.salt = "t"},
                  .tenant = "t",
                  .per_tenant = true},
        Isolation{.name = "SwitchedOff", .prefix_cache = false}),
    [](const auto& test) { return test.param.name; });

TEST(PrefixReuseTest, WhoLeavesNothingBehindLendsNothingWhileItRuns) {
  // Given a request that decodes and does not write, and the same prompt again.
  for (const bool write : {false, true}) {
    Rig rig;
    rig.limits.num_blocks[engine::kSliding] = 0;  // so that its first block is still there
    rig.Start();
    Request request = rig.NewRequest(50, 40);
    request.prefix_cache.write = write;
    rig.Submit(request);
    rig.TurnsUntilTokens(0, 1);
    request.prefix_cache.write = true;
    rig.Submit(request);
    rig.Turns();
    EXPECT_EQ(rig.Of(1).stats.cached_prompt_tokens, write ? 49 : 0);
    rig.ExpectAllRight();
  }
}

TEST(PrefixReuseTest, OtherFormatsShareNothing) {
  // Keys, not pools, hold formats apart.
  Request request;
  SchedulerConfig config;
  ModelLimits limits = {.vocab_size = 10, .max_context = 10, .window = 4, .num_blocks = {4, 4}};
  KvPools pools = {kvcache::BlockPool(4), kvcache::BlockPool(4)};
  const kvcache::BlockKey before = PrefixReuse(config, limits, pools).RootKeyOf(request);
  limits.kv_formats = "q8/q8";
  EXPECT_NE(PrefixReuse(config, limits, pools).RootKeyOf(request), before);
}

TEST(PrefixReuseTest, AHitIsCutWhereASlidingWindowIsNoLongerWhole) {
  // Given a sliding pool with two blocks more than a sequence holds, where a second request drove
  // out what the first left, and full blocks for both.
  Rig rig;
  rig.limits.num_blocks = {SlidingBlocksHeld(rig.limits) + 2, 64};
  rig.Start();
  const Request request = rig.NewRequest(50, 1);
  rig.Submit(request);
  rig.Turns();
  rig.Submit(50, 1);
  rig.Turns();
  EXPECT_EQ(rig.scheduler->stats().blocks_cached[engine::kFull], 12);
  EXPECT_GT(rig.scheduler->stats().prefix_evicted_blocks_total, 0);
  // When the first comes again, then its full blocks are of no use.
  rig.Submit(request);
  rig.Turns();
  EXPECT_EQ(rig.Of(2).stats.cached_prompt_tokens, 0);
  rig.ExpectAllRight();
}

TEST(PrefixReuseTest, TheLeastRecentlyUsedGivesWay) {
  // Given full blocks for two prompts of 40 tokens and their rows, and requests a, b, a.
  Rig rig;
  rig.limits.num_blocks = {0, 12};
  rig.Start();
  const Request a = rig.NewRequest(40, 1);
  Request b = a, c = a;
  b.prompt[0] = 1;
  c.prompt[0] = 2;
  for (const Request& request : {a, b, a}) {
    rig.Submit(request);
    rig.Turns();
  }
  EXPECT_EQ(rig.Of(2).stats.cached_prompt_tokens, 32);
  // When a third prompt needs room, then b gives way, from its end on, and a is still there.
  rig.Submit(c);
  rig.Turns();
  EXPECT_EQ(rig.scheduler->stats().prefix_evicted_blocks_total, 3);
  rig.Submit(a);
  rig.Turns();
  rig.Submit(b);
  rig.Turns();
  EXPECT_EQ(rig.Of(4).stats.cached_prompt_tokens, 32);
  EXPECT_EQ(rig.Of(5).stats.cached_prompt_tokens, 16);
  rig.ExpectAllRight();
}

TEST(PrefixReuseTest, AFlushFreesWhatNobodyHolds) {
  // Given what an ended request left, and one that runs.
  Rig rig;
  rig.Start();
  const Request request = rig.NewRequest(50, 1);
  rig.Submit(request);
  rig.Turns();
  rig.Submit(30, 50);
  rig.scheduler->RunOnce();
  const int64_t cached =
      rig.scheduler->stats().blocks_cached[0] + rig.scheduler->stats().blocks_cached[1];
  // When the cache is flushed.
  int64_t freed = -1;
  rig.scheduler->FlushPrefixCache([&](int64_t blocks) { freed = blocks; });
  EXPECT_EQ(freed, -1);  // at the next boundary
  rig.scheduler->RunOnce();
  // Then that is gone, and the running one was not disturbed.
  EXPECT_EQ(freed, cached);
  EXPECT_EQ(rig.scheduler->stats().blocks_cached[engine::kFull], 0);
  rig.Submit(request);
  rig.Turns();
  EXPECT_EQ(rig.Of(2).stats.cached_prompt_tokens, 0);
  rig.ExpectAllRight();
  // And after the end of the loop nothing is there to flush.
  rig.scheduler->Stop();
  rig.scheduler->RunOnce();
  rig.scheduler->FlushPrefixCache([&](int64_t blocks) { freed = blocks; });
  EXPECT_EQ(freed, 0);
}

TEST(PrefixReuseTest, WhatIsScoredRunsAgain) {
  // Given a prompt in the cache.
  Rig rig;
  rig.Start();
  Request request = rig.NewRequest(50, 2);
  rig.Submit(request);
  rig.Turns();
  // When it comes with scores for two choices.
  request.prompt_logprobs.enabled = true;
  request.n = 2;
  rig.Submit(request);
  rig.Turns();
  // Then the first computes all of it, and the second what is not in full blocks.
  EXPECT_EQ(rig.Of(1).stats.cached_prompt_tokens, 0);
  EXPECT_EQ(rig.Of(1).prompt_logprobs.size(), 49u);
  EXPECT_EQ(rig.scheduler->stats().prompt_tokens_total, 50 + 50 + 2);
  rig.ExpectAllRight();
}

TEST(PrefixReuseTest, WhatACancelledRequestComputedStays) {
  Rig rig;
  rig.Start();
  const Request request = rig.NewRequest(150, 10);
  const RequestId id = rig.Submit(request);
  rig.scheduler->RunOnce();
  rig.scheduler->Cancel(id, CancelCause::kClientGone);
  rig.Turns();
  rig.Submit(request);
  rig.Turns();
  EXPECT_EQ(rig.Of(1).stats.cached_prompt_tokens, 64);
  rig.ExpectEmpty();
}

TEST(PrefixReuseTest, GuessesBehindAStopAreNotFound) {
  // Given drafts that are always right, and a stop on the second token of the first draft.
  DraftRig rig(4);
  rig.Start();
  Request request = rig.NewRequest(20, 40);
  std::vector<int32_t> text = request.prompt;
  const std::vector<int32_t> ids = ExpectedChoice(request, 0, rig.limits).ids;
  text.insert(text.end(), ids.begin(), ids.end());
  request.stop.stop_ids = {ids[2]};
  rig.Submit(request);
  rig.Turns();
  ASSERT_THAT(rig.Of(0).choices[0].ids.size(), 3u);
  ASSERT_EQ(rig.device->step_drafts.back(), std::vector<int>({4}));
  // When a prompt goes on like the model would have: rows for 25 tokens of it had run, those of
  // the first 23 were sent.
  request.prompt.assign(text.begin(), text.begin() + 30);
  request.stop.stop_ids.clear();
  rig.Submit(request);
  rig.Turns();
  // Then two blocks are found, not three.
  EXPECT_EQ(rig.Of(1).stats.cached_prompt_tokens, 16);
  rig.ExpectAllRight();
}

TEST(PrefixReuseTest, ABlockFullOfAcceptedGuessesIsFound) {
  DraftRig rig(4);
  rig.Start();
  Request request = rig.NewRequest(20, 14);
  rig.Submit(request);
  rig.Turns();
  const std::vector<int32_t> ids = rig.Of(0).choices[0].ids;
  request.prompt.insert(request.prompt.end(), ids.begin(), ids.end());
  rig.Submit(request);
  rig.Turns();
  EXPECT_EQ(rig.Of(1).stats.cached_prompt_tokens, 32);
  rig.ExpectAllRight();
}

TEST(PrefixReuseTest, ARequestWithBrokenRowsFailsAloneAndLeavesNothing) {
  // Given a value that is not finite in the second chunk of one of two requests.
  Rig rig;
  rig.Start();
  rig.device->broken_rows = [](int64_t position) { return position == 70; };
  const Request request = rig.NewRequest(100, 5);
  rig.Submit(request);
  rig.Submit(20, 30);
  rig.Turns();
  // Then that one fails, typed, and the other one is as if alone.
  EXPECT_EQ(rig.ReasonOf(0), "NUMERIC_FAILURE");
  EXPECT_EQ(rig.Of(0).tokens, 0);
  EXPECT_TRUE(rig.Of(1).status.ok());
  EXPECT_EQ(rig.Of(1).CheckAgainstExpected(rig.limits), "");
  rig.ExpectEmpty();
  // And what is found of it ends before the chunk.
  rig.device->broken_rows = nullptr;
  rig.Submit(request);
  rig.Turns();
  EXPECT_GT(rig.Of(2).stats.cached_prompt_tokens, 0);
  EXPECT_LE(rig.Of(2).stats.cached_prompt_tokens, 64);
  EXPECT_EQ(rig.Of(2).CheckAgainstExpected(rig.limits), "");
}

TEST(PrefixReuseTest, AStepWithBrokenLogitsLeavesNothing) {
  Rig rig;
  rig.Start();
  rig.device->broken = [](int64_t position) { return position == 50; };
  const Request request = rig.NewRequest(50, 5);
  rig.Submit(request);
  rig.Turns();
  EXPECT_EQ(rig.ReasonOf(0), "NUMERIC_FAILURE");
  EXPECT_THAT(rig.scheduler->stats().blocks_cached, ElementsAre(0, 0));
  rig.ExpectEmpty();
}

}  // namespace
}  // namespace tandem::scheduler
