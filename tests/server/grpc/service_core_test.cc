#include "server/grpc/service_core.h"

#include <chrono>
#include <optional>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/status_reason.h"
#include "server/grpc/model_messages.h"
#include "server/grpc/request_id.h"
#include "server/grpc/stats_messages.h"

namespace tandem::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;

TEST(ActiveCallsTest, AnIdIsTakenUntilItsCallEnds) {
  ActiveCalls calls;
  const auto first = calls.Begin("a");
  ASSERT_TRUE(first.ok());
  const absl::Status second = calls.Begin("a").status();
  EXPECT_TRUE(absl::IsAlreadyExists(second));
  EXPECT_EQ(GetReason(second).reason, "DUPLICATE_REQUEST_ID");
  calls.End(*first);
  EXPECT_TRUE(calls.Begin("a").ok());
}

TEST(ActiveCallsTest, CallsWithoutAnIdDoNotCollide) {
  ActiveCalls calls;
  EXPECT_TRUE(calls.Begin("").ok());
  EXPECT_TRUE(calls.Begin("").ok());
}

TEST(ActiveCallsTest, ADrainRefusesNewCallsAndWaitsForTheOldOnes) {
  ActiveCalls calls;
  const auto ticket = calls.Begin("a");
  calls.BeginDrain();
  const absl::Status refused = calls.Begin("b").status();
  EXPECT_TRUE(absl::IsUnavailable(refused));
  EXPECT_EQ(GetReason(refused).reason, "DRAINING");
  EXPECT_FALSE(calls.WaitIdle(std::chrono::milliseconds(1)));
  std::thread ender([&] { calls.End(*ticket); });
  EXPECT_TRUE(calls.WaitIdle(std::chrono::minutes(1)));
  ender.join();
}

TEST(ActiveCallsTest, HurryEndsTheWaiting) {
  ActiveCalls calls;
  (void)calls.Begin("a");
  std::thread second_signal([&] { calls.Hurry(); });
  EXPECT_FALSE(calls.WaitIdle(std::chrono::hours(1)));
  second_signal.join();
}

TEST(ActiveCallsTest, CancellingReachesRunningCallsAndThoseAboutToRun) {
  ActiveCalls calls;
  const auto running = calls.Begin("a"), starting = calls.Begin("b");
  EXPECT_EQ(calls.SetHandle(*running, 7), std::nullopt);
  EXPECT_THAT(calls.HandlesToCancel(), ElementsAre(7));
  EXPECT_EQ(calls.SetHandle(*starting, 8), scheduler::CancelCause::kDrain);
  calls.End(*running);
  calls.End(*starting);
  EXPECT_THAT(calls.HandlesToCancel(), IsEmpty());
}

TEST(ActiveCallsTest, AnAbortReachesRunningCallsAndThoseAboutToRun) {
  ActiveCalls calls;
  const auto running = calls.Begin("a"), starting = calls.Begin("b"), other = calls.Begin("c");
  EXPECT_EQ(calls.SetHandle(*running, 7), std::nullopt);
  EXPECT_EQ(calls.Abort("a")->handle, std::optional<Generator::Handle>(7));
  EXPECT_EQ(calls.Abort("b")->handle, std::nullopt);
  EXPECT_EQ(calls.SetHandle(*starting, 8), scheduler::CancelCause::kAborted);
  EXPECT_EQ(calls.SetHandle(*other, 9), std::nullopt);
  EXPECT_FALSE(calls.Abort("nobody").has_value());
  calls.End(*running);
  EXPECT_FALSE(calls.Abort("a").has_value());
  EXPECT_FALSE(calls.Find("a").has_value());
  EXPECT_EQ(calls.Find("c")->handle, std::optional<Generator::Handle>(9));
}

TEST(ActiveCallsTest, ADrainEndsWatchesAndDoesNotWaitForThem) {
  ActiveCalls calls;
  int told = 0;
  const auto gone = calls.BeginWatch([&] { told += 10; });
  const auto watch = calls.BeginWatch([&] { ++told; });
  ASSERT_TRUE(watch.ok());
  calls.EndWatch(*gone);
  calls.BeginDrain();
  EXPECT_EQ(told, 1);
  EXPECT_TRUE(calls.WaitIdle(std::chrono::minutes(1)));
  EXPECT_EQ(GetReason(calls.BeginWatch([] {}).status()).reason, "DRAINING");
}

TEST(EngineStatsTest, UsageIsThatOfTheFullestGroup) {
  ServedModel model;
  model.layers = 30;
  model.full_attention_layers = 5;
  model.kv_block_tokens = 32;
  model.kv_format = "bf16";
  scheduler::SchedulerStats stats;
  stats.running = 3;
  stats.paused = 1;
  stats.preempted_now = 2;
  stats.blocks_total[engine::kSliding] = 100;
  stats.blocks_used[engine::kSliding] = 50;
  stats.blocks_total[engine::kFull] = 400;
  stats.blocks_used[engine::kFull] = 100;
  stats.last_step_us = 2500;
  const v1::EngineStats out = ToEngineStats(
      stats, model, {.prompt_per_s = 10, .generated_per_s = 20}, true, 1'700'000'000'250'000);
  EXPECT_EQ(out.time().seconds(), 1'700'000'000);
  EXPECT_EQ(out.time().nanos(), 250'000'000);
  EXPECT_EQ(out.running(), 3u);
  EXPECT_EQ(out.paused(), 1u);
  EXPECT_EQ(out.preempted_now(), 2u);
  EXPECT_EQ(out.kv_blocks_total(), 500u);
  EXPECT_EQ(out.kv_blocks_used(), 150u);
  EXPECT_DOUBLE_EQ(out.kv_usage(), 0.5);
  ASSERT_EQ(out.kv_groups_size(), 2);
  EXPECT_EQ(out.kv_groups(0).name(), "sliding");
  EXPECT_EQ(out.kv_groups(0).layers(), 25u);
  EXPECT_EQ(out.kv_groups(1).layers(), 5u);
  EXPECT_DOUBLE_EQ(out.step_time_ms(), 2.5);
  EXPECT_DOUBLE_EQ(out.prompt_tokens_per_s(), 10);
  EXPECT_DOUBLE_EQ(out.generation_tokens_per_s(), 20);
  EXPECT_TRUE(out.draining());
}

TEST(TokenRateTest, SleepDoesNotCount) {
  TokenRate rate;
  rate.Observe(0, 1'000'000);
  rate.Observe(100, 2'000'000);
  EXPECT_DOUBLE_EQ(rate.per_second(), 100.0);
  rate.Observe(100, 50'000'000);
  EXPECT_DOUBLE_EQ(rate.per_second(), 100.0);
  EXPECT_DOUBLE_EQ(rate.last_per_second(), 0.0);  // but it is seen
  rate.Observe(400, 51'000'000);
  EXPECT_DOUBLE_EQ(rate.per_second(), 140.0);
  EXPECT_DOUBLE_EQ(rate.last_per_second(), 300.0);
}

TEST(RetryDelayTest, IsTheTimeToDrainTheQueueWithinBoundsAndSpread) {
  EXPECT_DOUBLE_EQ(RetryDelayS(500, 100.0, 0.5), 5.0);
  EXPECT_DOUBLE_EQ(RetryDelayS(500, 100.0, 0.0), 4.0);
  EXPECT_DOUBLE_EQ(RetryDelayS(500, 100.0, 1.0), 6.0);
  EXPECT_DOUBLE_EQ(RetryDelayS(1'000'000, 1.0, 0.5), 30.0);
  EXPECT_DOUBLE_EQ(RetryDelayS(0, 100.0, 0.5), 0.05);
  EXPECT_DOUBLE_EQ(RetryDelayS(500, 0.0, 0.5), 1.0);  // nothing known yet
}

TEST(RequestIdTest, GeneratedIdsAreUuidsOfVersionSeven) {
  // The example of RFC 9562, appendix A.6.
  EXPECT_EQ(FormatUuidV7(0x017F22E279B0, 0xCC3, 0x18C4DC0C0C07398F),
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
  const std::string a = NewRequestId(), b = NewRequestId();
  EXPECT_THAT(a,
              MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"));
  EXPECT_NE(a, b);
}

TEST(FingerprintTest, ChangesWithWhatChangesAnswers) {
  ServedModel model;
  model.name = "demo";
  const std::string one = Fingerprint(model, "1");
  EXPECT_THAT(one, MatchesRegex("[0-9a-f]{16}"));
  EXPECT_EQ(one, Fingerprint(model, "1"));
  EXPECT_NE(one, Fingerprint(model, "2"));
  model.kv_format = "int8";
  EXPECT_NE(one, Fingerprint(model, "1"));
}

}  // namespace
}  // namespace tandem::server
