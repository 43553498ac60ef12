// Many threads against one scheduler thread; ThreadSanitizer watches.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "scheduler/scheduler.h"
#include "scheduler/status_reason.h"
#include "scheduler/step_log.h"
#include "tests/scheduler/recorder.h"
#include "tests/scheduler/sim_device.h"

namespace tandem::scheduler {
namespace {

// A scheduler on a thread of its own. Recorders are written there, and read here after the count of
// finished requests says so.
class Server {
 public:
  Server()
      : device_(NewDevice(config_, limits_)),
        scheduler_(config_, limits_, device_.AsRunStep()),
        thread_([this] { scheduler_.Run(); }) {}
  ~Server() { Stop(); }

  void Stop() {
    scheduler_.Stop();
    if (thread_.joinable()) thread_.join();
  }

  EventSink Count(Recorder& recorder) {
    return [this, &recorder](TokenEvent event) {
      const bool last = event.kind == TokenEvent::Kind::kFinished;
      recorder.On(std::move(event));
      if (!last) return;
      const std::lock_guard lock(mutex_);
      ++finished_;
      changed_.notify_all();
    };
  }

  // False when it takes more than a minute.
  bool WaitForFinished(int count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::minutes(1), [&] { return finished_ >= count; });
  }

  Scheduler& scheduler() { return scheduler_; }
  const SimDevice& device() const { return device_; }  // after Stop
  const ModelLimits& limits() const { return limits_; }

 private:
  // Every other guess holds.
  static SimDevice NewDevice(const SchedulerConfig& config, const ModelLimits& limits) {
    SimDevice device(config, limits);
    device.guess = [](const GuessQuery& query) {
      engine::Draft draft = {.ids = RightGuesses(query)};
      for (size_t i = 0; i < draft.ids.size(); ++i) {
        if ((query.position + i) % 2 == 0) draft.ids[i] = 7;
      }
      return draft;
    };
    return device;
  }

  const SchedulerConfig config_ = {
      .max_slots = 8, .max_step_rows = 64, .max_queued_requests = 40, .max_draft_tokens = 3};
  const ModelLimits limits_ = {.vocab_size = 500,
                               .max_context = 100,
                               .window = 20,
                               .block_tokens = 8,
                               .num_blocks = {24, 40}};
  SimDevice device_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int finished_ = 0;
  Scheduler scheduler_;
  std::thread thread_;
};

Request SmallRequest(int seed, int max_tokens) {
  Request request;
  for (int i = 0; i < 5 + seed % 30; ++i) request.prompt.push_back((seed * 17 + i) % 500);
  request.stop.max_tokens = max_tokens;
  request.stop.eos_ids = {1};
  request.speculation.mode = seed % 2 == 0 ? Speculation::Mode::kFixed : Speculation::Mode::kAuto;
  request.tenant = std::string(seed % 3, 't');
  request.arrival_us = MonotonicNowUs();
  return request;
}

TEST(ThreadsTest, ManyThreadsSubmitAndCancelWhileTheSchedulerRuns) {
  constexpr int kThreads = 4;
  constexpr int kPerThread = 60;
  Server server;
  std::vector<std::vector<std::unique_ptr<Recorder>>> recorders(kThreads);
  std::atomic<int> accepted = 0;
  std::atomic<int> answers = 0;
  std::atomic<int> flushes = 0;
  std::atomic<bool> done = false;

  // Given threads that submit, cancel, flush and stop, and one that only looks.
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < kPerThread; ++i) {
        auto recorder = std::make_unique<Recorder>(SmallRequest(100 * t + i, 1 + i % 20));
        absl::StatusOr<Reservation> reservation = server.scheduler().Reserve(
            {.tenant = recorder->request.tenant, .prompt_tokens = 20, .bytes = 80});
        const absl::StatusOr<RequestId> id =
            reservation.ok() ? server.scheduler().Submit(recorder->request, server.Count(*recorder),
                                                         *std::move(reservation))
                             : reservation.status();
        if (!id.ok()) {  // the queue is full: try again later
          EXPECT_EQ(GetReason(id.status()).reason, "QUEUE_FULL");
          std::this_thread::yield();
          continue;
        }
        ++accepted;
        recorders[t].push_back(std::move(recorder));
        if (random() % 4 == 0) server.scheduler().Cancel(*id, CancelCause::kClientGone);
        if (random() % 4 == 0) server.scheduler().Pause(*id);
        server.scheduler().FlushPrefixCache([&](int64_t) { ++flushes; });
        server.scheduler().Describe(*id, [&](std::optional<RequestView>) { ++answers; });
        server.scheduler().Resume(*id);
        if (random() % 4 == 0) server.scheduler().StopChoice(*id, 0);
      }
    });
  }
  std::thread looker([&] {
    while (!done) {
      const SchedulerStats stats = server.scheduler().stats();
      EXPECT_LE(stats.running, 8);
      EXPECT_LE(stats.queued_requests, 40);
      EXPECT_LE(server.scheduler().RecentSteps().size(), 64u);
      std::this_thread::yield();
    }
  });
  for (std::thread& thread : threads) thread.join();
  // When all have ended.
  EXPECT_TRUE(server.WaitForFinished(accepted));
  done = true;
  looker.join();
  server.Stop();
  // Then each got what it would have got alone, or a part of it.
  EXPECT_GT(accepted, 0);
  EXPECT_EQ(answers, accepted);
  EXPECT_EQ(flushes, accepted);
  EXPECT_EQ(server.scheduler().stats().queued_requests, 0);
  EXPECT_GT(server.scheduler().stats().drafts.accepted, 0);
  for (const auto& list : recorders) {
    for (const auto& recorder : list) {
      EXPECT_EQ(recorder->finished, 1);
      EXPECT_THAT(recorder->errors, testing::IsEmpty());
      EXPECT_EQ(recorder->CheckAgainstExpected(server.limits()), "");
    }
  }
  EXPECT_THAT(server.device().errors, testing::IsEmpty());
  EXPECT_THAT(server.scheduler().stats().blocks_used, testing::ElementsAre(0, 0));
}

TEST(ThreadsTest, AnIdleSchedulerWakesUpForTheNextRequest) {
  Server server;
  for (int i = 0; i < 3; ++i) {
    Recorder recorder(SmallRequest(i, 5));
    ASSERT_TRUE(server.scheduler().Submit(recorder.request, server.Count(recorder)).ok());
    ASSERT_TRUE(server.WaitForFinished(i + 1));
    EXPECT_TRUE(recorder.status.ok());
  }
}

TEST(ThreadsTest, StoppingWithOpenRequestsEndsThemAll) {
  Server server;
  std::vector<std::unique_ptr<Recorder>> recorders;
  for (int i = 0; i < 20; ++i) {
    recorders.push_back(std::make_unique<Recorder>(SmallRequest(i, 60)));
    ASSERT_TRUE(server.scheduler().Submit(recorders[i]->request, server.Count(*recorders[i])).ok());
  }
  server.Stop();
  for (const auto& recorder : recorders) {
    EXPECT_EQ(recorder->finished, 1);
    EXPECT_THAT(recorder->errors, testing::IsEmpty());
    if (!recorder->status.ok()) {
      EXPECT_EQ(GetReason(recorder->status).reason, "SHUTTING_DOWN");
    }
  }
  EXPECT_EQ(server.scheduler().Submit(SmallRequest(0, 1), [](TokenEvent) {}).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(ThreadsTest, AnIdleLoopStillTurns) {
  Server server;
  const int64_t turn_us = server.scheduler().stats().last_turn_us;
  const int64_t begin_us = MonotonicNowUs();
  while (server.scheduler().stats().last_turn_us <= turn_us + 1000 &&
         MonotonicNowUs() - begin_us < 60'000'000) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_GT(server.scheduler().stats().last_turn_us, turn_us + 1000);
}

TEST(ThreadsTest, ADeadlineIsKeptWhileEverybodyIsPaused) {
  // Given one request, paused before its end.
  Server server;
  Recorder recorder(SmallRequest(1, 90));
  recorder.request.stop.eos_ids = {};
  recorder.request.deadline_us = MonotonicNowUs() + 100'000;
  const absl::StatusOr<RequestId> submitted = server.scheduler().Submit(
      recorder.request, [&, count = server.Count(recorder)](TokenEvent event) mutable {
        // From the first event on, on the scheduler's thread: it cannot end before.
        if (event.kind == TokenEvent::Kind::kStarted) server.scheduler().Pause(1);
        count(std::move(event));
      });
  ASSERT_TRUE(submitted.ok());
  EXPECT_EQ(*submitted, 1u);
  // Then the loop, which has nothing to run, wakes up for its deadline.
  ASSERT_TRUE(server.WaitForFinished(1));
  EXPECT_EQ(GetReason(recorder.status).reason, "DEADLINE");
  EXPECT_GE(MonotonicNowUs(), recorder.request.deadline_us);
  EXPECT_GT(recorder.stats.paused_us, 0);
}

}  // namespace
}  // namespace tandem::scheduler
