#include "server/grpc/service_core.h"

#include <chrono>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/status_reason.h"
#include "server/grpc/model_messages.h"
#include "server/grpc/request_id.h"

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

TEST(TokenRateTest, SleepDoesNotCount) {
  TokenRate rate;
  rate.Observe(0, 1'000'000);
  rate.Observe(100, 2'000'000);
  EXPECT_DOUBLE_EQ(rate.per_second(), 100.0);
  rate.Observe(100, 50'000'000);
  EXPECT_DOUBLE_EQ(rate.per_second(), 100.0);
  rate.Observe(400, 51'000'000);
  EXPECT_DOUBLE_EQ(rate.per_second(), 140.0);
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
