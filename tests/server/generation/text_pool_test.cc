// Order, bounds and the end of the pool that works on text.
#include "server/generation/text_pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/generation/generation_rig.h"

namespace tandem::server {
namespace {

using ::testing::ElementsAre;

TEST(TextPoolTest, RunsEverythingOnAtMostItsThreadsBeforeItEnds) {
  // Given 500 jobs of both kinds on three threads.
  std::mutex mutex;
  std::set<std::thread::id> threads;
  std::atomic<int> ran = 0;
  {
    TextPool pool(3);
    for (int i = 0; i < 500; ++i) {
      const auto job = [&] {
        ++ran;
        std::lock_guard lock(mutex);
        threads.insert(std::this_thread::get_id());
      };
      i % 5 == 0 ? pool.RunLong(job) : pool.Run(job);
    }
    // When the pool ends,
  }
  // Then all have run, and nowhere else.
  EXPECT_EQ(ran, 500);
  EXPECT_LE(threads.size(), 3u);
  EXPECT_EQ(threads.count(std::this_thread::get_id()), 0u);
}

TEST(TextPoolTest, JobsAddedByTheLastJobsStillRun) {
  std::atomic<int> ran = 0;
  {
    TextPool pool(2);
    pool.RunLong([&] {
      pool.Run([&] {
        pool.RunLong([&] { ++ran; });
        ++ran;
      });
      ++ran;
    });
  }
  EXPECT_EQ(ran, 3);
}

TEST(TextPoolTest, LongJobsLeaveAThreadForShortOnes) {
  // Given two threads and two long jobs that wait for a short one.
  Signal first_runs, short_ran;
  std::atomic<int> long_ran = 0;
  TextPool pool(2);
  for (int i = 0; i < 2; ++i) {
    pool.RunLong([&] {
      first_runs.Set();
      short_ran.Wait();
      ++long_ran;
    });
  }
  first_runs.Wait();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // time to do it wrong
  // When the short one is added last, then it runs, and the long ones after it.
  pool.Run([&] { short_ran.Set(); });
  short_ran.Wait();
  Signal end;
  pool.RunLong([&] { end.Set(); });
  end.Wait();
  EXPECT_EQ(long_ran, 2);
}

TEST(TextPoolTest, OneThreadIsEnoughForLongJobs) {
  Signal ran;
  TextPool pool(1);
  pool.RunLong([&] { ran.Set(); });
  ran.Wait();
}

TEST(TextPoolTest, TimersRunInOrderOfTheirDueTimeAndNotBefore) {
  using std::chrono::milliseconds;
  std::mutex mutex;
  std::vector<int> order;
  Signal last;
  bool early = false;
  TextPool pool(1);
  const TextPool::Clock::time_point start = TextPool::Clock::now();
  const auto add = [&](int ms) {
    pool.RunAt(start + milliseconds(ms), [&, ms] {
      std::lock_guard lock(mutex);
      early = early || TextPool::Clock::now() < start + milliseconds(ms);
      order.push_back(ms);
      if (ms == 30) last.Set();
    });
  };
  // Given timers added out of order, one of them overdue, before the only thread can look at any.
  Signal all_known;
  pool.Run([&] { all_known.Wait(); });
  add(30);
  add(10);
  add(-5);
  add(20);
  all_known.Set();
  // When all have run, then in order.
  last.Wait();
  std::lock_guard lock(mutex);
  EXPECT_THAT(order, ElementsAre(-5, 10, 20, 30));
  EXPECT_FALSE(early);
}

TEST(TextPoolTest, TimersThatAreNotDueEndWithThePool) {
  auto alive = std::make_shared<int>(0);
  {
    TextPool pool(2);
    pool.RunAt(TextPool::Clock::now() + std::chrono::hours(1), [alive] { FAIL(); });
  }
  EXPECT_EQ(alive.use_count(), 1);
}

TEST(StrandTest, JobsOfAStrandRunOneAtATimeInOrder) {
  // Given 20 strands on four threads, each fed from two threads of its own.
  constexpr int kStrands = 20, kJobs = 300;
  struct Log {
    std::mutex posting;
    int posted = 0;        // guarded by posting
    std::vector<int> ran;  // the strand's jobs only: no lock
    std::atomic<int> running = 0;
    std::atomic<bool> overlapped = false;
  };
  std::vector<Log> logs(kStrands);
  {
    TextPool pool(4);
    std::vector<Strand> strands;
    for (int i = 0; i < kStrands; ++i) strands.emplace_back(pool);
    std::vector<std::thread> feeders;
    for (int f = 0; f < 2; ++f) {
      feeders.emplace_back([&] {
        for (int j = 0; j < kJobs; ++j) {
          for (int i = 0; i < kStrands; ++i) {
            Log& log = logs[i];
            std::lock_guard lock(log.posting);
            strands[i].Post([&log, number = log.posted++] {
              if (++log.running != 1) log.overlapped = true;
              log.ran.push_back(number);
              if (number % 8 == 0) std::this_thread::yield();
              --log.running;
            });
          }
        }
      });
    }
    for (std::thread& feeder : feeders) feeder.join();
  }
  // When the pool has ended, then every strand's jobs ran in the order of posting, never together.
  for (const Log& log : logs) {
    EXPECT_FALSE(log.overlapped);
    ASSERT_EQ(log.ran.size(), 2u * kJobs);
    for (int j = 0; j < 2 * kJobs; ++j) ASSERT_EQ(log.ran[j], j);
  }
}

TEST(StrandTest, ABusyStrandLetsOthersIn) {
  // Given one thread and a strand that keeps feeding itself until another strand has run.
  Signal other_ran;
  std::atomic<bool> stop = false;
  TextPool pool(1);
  Strand busy(pool), other(pool);
  std::function<void()> feed = [&] {
    if (!stop) busy.Post(feed);
  };
  busy.Post(feed);
  // When the other one gets a job, then it runs.
  other.Post([&] {
    stop = true;
    other_ran.Set();
  });
  other_ran.Wait();
}

}  // namespace
}  // namespace tandem::server
