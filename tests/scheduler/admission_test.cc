// Who may wait: limits, and what a reservation counts for.
#include "scheduler/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "scheduler/status_reason.h"

namespace tandem::scheduler {
namespace {

using testing::ElementsAre;
using testing::Pair;

std::shared_ptr<Admission> NewAdmission(const SchedulerConfig& config) {
  return std::make_shared<Admission>(config);
}

Reservation Take(Admission& admission, const ReservationRequest& request) {
  absl::StatusOr<Reservation> reservation = admission.Reserve(request);
  EXPECT_TRUE(reservation.ok()) << reservation.status();
  return reservation.ok() ? *std::move(reservation) : Reservation();
}

TEST(AdmissionTest, AReservationCountsUntilItIsGone) {
  const auto admission = NewAdmission({});
  {
    // Given a reservation that is corrected and moved about.
    Reservation first = Take(*admission, {.prompt_tokens = 30, .bytes = 100});
    first.SetPromptTokens(12);
    Reservation second = std::move(first);
    EXPECT_FALSE(first.held());
    EXPECT_EQ(admission->counts().requests, 1);
    EXPECT_EQ(admission->counts().prompt_tokens, 12);
    EXPECT_EQ(admission->counts().bytes, 100);
    // When another one takes its place.
    second = Take(*admission, {.prompt_tokens = 5, .bytes = 7});
    EXPECT_EQ(admission->counts().requests, 1);
    EXPECT_EQ(admission->counts().prompt_tokens, 5);
    second.Release();
    second.Release();
    EXPECT_EQ(admission->counts().requests, 0);
  }
  // Then nothing is left.
  EXPECT_EQ(admission->counts().prompt_tokens, 0);
  EXPECT_EQ(admission->counts().bytes, 0);
}

TEST(AdmissionTest, EveryLimitIsNamedWithItsValueAndBound) {
  // Given a request in the queue, and each limit in turn too small for a second one.
  const struct {
    SchedulerConfig config;
    const char* reason;
    const char* value_key;
    const char* value;
    const char* bound_key;
    const char* bound;
  } cases[] = {
      {{.max_queued_requests = 1},
       "QUEUE_FULL",
       "queued_requests",
       "1",
       "max_queued_requests",
       "1"},
      {{.max_queued_tokens = 100}, "QUEUE_FULL", "queued_tokens", "60", "max_queued_tokens", "100"},
      {{.max_queued_bytes = 999}, "QUEUE_FULL", "queued_bytes", "500", "max_queued_bytes", "999"},
      {{.max_queued_per_tenant = 1},
       "TENANT_LIMIT",
       "queued_requests",
       "1",
       "max_queued_per_tenant",
       "1"},
  };
  for (const auto& c : cases) {
    const auto admission = NewAdmission(c.config);
    const ReservationRequest request = {.tenant = "a", .prompt_tokens = 60, .bytes = 500};
    const Reservation first = Take(*admission, request);
    // Then the second one is refused, and counts for nothing.
    const absl::Status status = admission->Reserve(request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(GetReason(status).reason, c.reason);
    EXPECT_EQ(GetReason(status).metadata[c.value_key], c.value) << status;
    EXPECT_EQ(GetReason(status).metadata[c.bound_key], c.bound) << status;
    EXPECT_EQ(admission->counts().requests, 1);
    EXPECT_EQ(admission->counts().prompt_tokens, 60);
  }
}

TEST(AdmissionTest, LimitsAreReachedExactly) {
  const auto admission = NewAdmission({.max_queued_tokens = 120, .max_queued_bytes = 1000});
  const Reservation first = Take(*admission, {.prompt_tokens = 60, .bytes = 500});
  EXPECT_FALSE(admission->Reserve({.prompt_tokens = 61, .bytes = 500}).ok());
  EXPECT_FALSE(admission->Reserve({.prompt_tokens = 60, .bytes = 501}).ok());
  EXPECT_TRUE(admission->Reserve({.prompt_tokens = 60, .bytes = 500}).ok());
}

TEST(AdmissionTest, ALoneRequestIsNeverTooLarge) {
  // Given limits that no request keeps to.
  const auto admission = NewAdmission({.max_queued_tokens = 1, .max_queued_bytes = 1});
  Reservation lone = Take(*admission, {.prompt_tokens = 60, .bytes = 500});
  // Then a second one has to wait until the queue is empty.
  EXPECT_FALSE(admission->Reserve({.prompt_tokens = 1}).ok());
  lone.Release();
  EXPECT_TRUE(admission->Reserve({.prompt_tokens = 1 << 30, .bytes = INT64_MAX}).ok());
}

TEST(AdmissionTest, TenantsHaveTheirLimitsApart) {
  const auto admission = NewAdmission({.max_queued_per_tenant = 2});
  const Reservation a1 = Take(*admission, {.tenant = "a"});
  Reservation a2 = Take(*admission, {.tenant = "a"});
  const Reservation b1 = Take(*admission, {.tenant = "b"});
  EXPECT_EQ(GetReason(admission->Reserve({.tenant = "a"}).status()).reason, "TENANT_LIMIT");
  EXPECT_TRUE(admission->Reserve({.tenant = "b"}).ok());
  a2.Release();
  EXPECT_TRUE(admission->Reserve({.tenant = "a"}).ok());
}

TEST(AdmissionTest, SenselessAmountsDoNoHarm) {
  const auto admission = NewAdmission({.max_queued_tokens = 100, .max_queued_bytes = 100});
  Reservation negative = Take(*admission, {.prompt_tokens = -5, .bytes = INT64_MIN});
  EXPECT_EQ(admission->counts().prompt_tokens, 0);
  EXPECT_EQ(admission->counts().bytes, 0);
  EXPECT_FALSE(admission->Reserve({.prompt_tokens = INT64_MAX}).ok());
  negative.SetPromptTokens(INT64_MAX);  // kept below what could overflow, and refuses everybody
  EXPECT_GT(admission->counts().prompt_tokens, 1'000'000'000);
  EXPECT_FALSE(admission->Reserve({.prompt_tokens = 1}).ok());
}

TEST(AdmissionTest, OnlyWhatIsSurelyServedBeforeIsAhead) {
  const auto admission = NewAdmission({});
  Reservation other_tenant = Take(*admission, {.tenant = "b", .prompt_tokens = 1000});
  other_tenant.SetSubmitted(100);
  Reservation urgent = Take(*admission, {.tenant = "a", .prompt_tokens = 10});
  urgent.SetSubmitted(5);
  Reservation equal = Take(*admission, {.tenant = "a", .prompt_tokens = 20});
  equal.SetSubmitted(0);
  Reservation low = Take(*admission, {.tenant = "a", .prompt_tokens = 40});
  low.SetSubmitted(-5);
  const Reservation still_tokenized = Take(*admission, {.tenant = "a", .prompt_tokens = 80});
  const Reservation own = Take(*admission, {.tenant = "a", .prompt_tokens = 160});
  Reservation later = Take(*admission, {.tenant = "a", .prompt_tokens = 320});
  later.SetSubmitted(0);
  EXPECT_EQ(own.TokensAhead(/*priority=*/0), 10 + 20);
  EXPECT_EQ(own.TokensAhead(/*priority=*/5), 10);
  EXPECT_EQ(own.TokensAhead(/*priority=*/6), 0);
  EXPECT_EQ(own.TokensAhead(/*priority=*/-5), 10 + 20 + 40);
}

TEST(AdmissionTest, AReservationMayOutliveEverything) {
  auto admission = NewAdmission({});
  Reservation reservation = Take(*admission, {.tenant = "a", .prompt_tokens = 5});
  admission.reset();
  reservation.SetPromptTokens(7);
  EXPECT_TRUE(reservation.held());
}

TEST(AdmissionTest, ABurstCannotPassALimitTogether) {
  // Given room for 10 requests of 7 tokens, and many threads that want some at the same time.
  const auto admission = NewAdmission({.max_queued_requests = 50, .max_queued_tokens = 70});
  std::atomic<bool> go = false;
  std::atomic<int> most = 0;
  std::atomic<int> held = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      while (!go) std::this_thread::yield();
      for (int i = 0; i < 500; ++i) {
        absl::StatusOr<Reservation> reservation =
            admission->Reserve({.tenant = t % 2 == 0 ? "even" : "odd", .prompt_tokens = 7});
        if (!reservation.ok()) continue;
        const int now = ++held;
        for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
        }
        if (i % 16 == 0) std::this_thread::yield();
        --held;
      }
    });
  }
  go = true;
  for (std::thread& thread : threads) thread.join();
  // Then never more than ten had one, and none is left.
  EXPECT_LE(most, 10);
  EXPECT_GT(most, 0);
  EXPECT_EQ(admission->counts().requests, 0);
  EXPECT_EQ(admission->counts().prompt_tokens, 0);
}

}  // namespace
}  // namespace tandem::scheduler
