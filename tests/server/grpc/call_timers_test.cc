#include "server/grpc/call_timers.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/generation/generation_rig.h"

namespace tandem::server {
namespace {

using Clock = CallTimers::Clock;
using std::chrono::hours;
using std::chrono::milliseconds;

TEST(CallTimersTest, TimersRunInTheOrderInWhichTheyAreDue) {
  CallTimers timers;
  Signal all_known, done;
  std::vector<int> order;
  const Clock::time_point now = Clock::now();
  timers.Start(now, [&] { all_known.Wait(); });
  timers.Start(now + milliseconds(20), [&] { order.push_back(2), done.Set(); });
  timers.Start(now + milliseconds(10), [&] { order.push_back(1); });
  all_known.Set();
  done.Wait();
  EXPECT_THAT(order, ::testing::ElementsAre(1, 2));
  EXPECT_GE(Clock::now(), now + milliseconds(20));
}

TEST(CallTimersTest, ACancelledTimerDoesNotRun) {
  CallTimers timers;
  std::atomic<bool> ran = false;
  Signal cancelled, later;
  const Clock::time_point now = Clock::now();
  timers.Start(now, [&] { cancelled.Wait(); });
  const CallTimers::Id id = timers.Start(now, [&] { ran = true; });
  timers.Cancel(id);
  cancelled.Set();
  timers.Start(now, [&] { later.Set(); });
  later.Wait();
  EXPECT_FALSE(ran);
  timers.Cancel(id);  // as often as one likes
}

TEST(CallTimersTest, CancellingWaitsForATimerThatRuns) {
  CallTimers timers;
  Signal running, go_on;
  std::atomic<bool> ended = false;
  const CallTimers::Id id = timers.Start(Clock::now(), [&] {
    running.Set();
    go_on.Wait();
    ended = true;
  });
  running.Wait();
  std::thread releaser([&] { go_on.Set(); });
  timers.Cancel(id);
  EXPECT_TRUE(ended);
  releaser.join();
}

TEST(CallTimersTest, ATimerMayStartAndCancelTimers) {
  CallTimers timers;
  Signal done;
  CallTimers::Id self;
  Signal known;
  self = timers.Start(Clock::now(), [&] {
    known.Wait();
    timers.Cancel(self);  // itself: no deadlock
    timers.Start(Clock::now(), [&] { done.Set(); });
  });
  known.Set();
  done.Wait();
}

TEST(CallTimersTest, TheEndDoesNotWaitForWhatIsNotDue) {
  bool ran = false;
  {
    CallTimers timers;
    timers.Start(Clock::now() + hours(1), [&] { ran = true; });
  }
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace tandem::server
