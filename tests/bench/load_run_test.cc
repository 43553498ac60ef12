// The driver against calls that the test answers itself: no server, and time only where it is the
// subject.
#include "bench/load_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <thread>

namespace tandem::bench {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Field;

constexpr auto kIgnoreProgress = [](const LoadProgress&) {};

PlannedRequest Plan(int index) { return {.index = index, .text = "x", .output_tokens = 2}; }

CallEnd Refused(std::string reason, int code) {
  CallEnd end;
  end.code = code;
  end.reason = std::move(reason);
  end.retry_delay_us = 1000;
  return end;
}

// Answers each call on a thread of its own, in order of arrival, after as many are open as the test
// wants to see.
class Answerer {
 public:
  explicit Answerer(std::function<CallEnd(const PlannedRequest&)> answer)
      : answer_(std::move(answer)), thread_([this] { Work(); }) {}
  ~Answerer() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
      changed_.notify_one();
    }
    thread_.join();
  }

  StartCall start() {
    return [this](const PlannedRequest& request, CallSink sink) -> CancelCall {
      const std::lock_guard lock(mutex_);
      open_.push_back({request, std::move(sink)});
      most_open_ = std::max(most_open_, open_.size());
      ++started_;
      changed_.notify_one();
      return [] {};
    };
  }

  size_t most_open() const { return most_open_; }
  int started() const { return started_; }

 private:
  struct Open {
    PlannedRequest request;
    CallSink sink;
  };

  void Work() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return done_ || !open_.empty(); });
      if (open_.empty()) return;
      const Open call = open_.front();
      lock.unlock();
      CallEnd end = answer_(call.request);
      if (end.code == 0) {
        call.sink.on_tokens(1);
        call.sink.on_tokens(2);
      }
      lock.lock();
      open_.pop_front();
      lock.unlock();
      call.sink.on_end(std::move(end));
    }
  }

  const std::function<CallEnd(const PlannedRequest&)> answer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Open> open_;
  size_t most_open_ = 0;
  int started_ = 0;
  bool done_ = false;
  std::thread thread_;
};

TEST(LoadRunTest, AClosedLoopKeepsAsManyCallsOpenAndSendsEachRequestOnce) {
  Answerer answerer([](const PlannedRequest&) { return CallEnd{}; });
  LoadRun run({.concurrency = 3, .requests = 40}, Plan, answerer.start());
  const RunResult result = run.Run(kIgnoreProgress);
  ASSERT_EQ(result.requests.size(), 40u);
  for (int i = 0; i < 40; ++i) {
    const RequestRecord& record = result.requests[i];
    EXPECT_EQ(record.index, i);
    EXPECT_EQ(record.output_tokens, 3);
    ASSERT_EQ(record.messages.size(), 2u);
    EXPECT_LE(record.sent_us, record.messages[0].time_us);
    EXPECT_LE(record.messages[1].time_us, record.end_us);
  }
  EXPECT_EQ(answerer.most_open(), 3u);
  EXPECT_EQ(result.concurrency, 3);
  EXPECT_FALSE(result.interrupted);
}

TEST(LoadRunTest, AnOpenLoopSendsByTheClockHoweverManyAreOpen) {
  // Given calls that nobody answers before all five are open.
  std::mutex mutex;
  std::vector<CallSink> open;
  const StartCall start = [&](const PlannedRequest&, CallSink sink) -> CancelCall {
    const std::lock_guard lock(mutex);
    open.push_back(std::move(sink));
    if (open.size() == 5) {
      for (const CallSink& each : open) each.on_end({});
    }
    return [] {};
  };
  // When they are sent at 100 per second.
  LoadRun run(
      {.arrivals = {.pattern = ArrivalSpec::Pattern::kConstant, .rate = 100.0}, .requests = 5},
      Plan, start);
  const RunResult result = run.Run(kIgnoreProgress);
  // Then each was due 10 ms after the one before, and none was early.
  std::vector<int64_t> due;
  for (const RequestRecord& record : result.requests) {
    due.push_back(record.due_us);
    EXPECT_GE(record.sent_us, record.due_us);
  }
  EXPECT_THAT(due, ElementsAre(0, 10'000, 20'000, 30'000, 40'000));
  EXPECT_EQ(result.concurrency, 0);
  EXPECT_EQ(result.rate, 100.0);
}

TEST(LoadRunTest, MoreCallsThanAreSentInARowAreAllOpenAtOnce) {
  // Given calls that nobody answers before all 1000 are open.
  std::vector<CallSink> open;
  const StartCall start = [&](const PlannedRequest&, CallSink sink) -> CancelCall {
    open.push_back(std::move(sink));
    if (open.size() == 1000) {
      for (const CallSink& each : open) each.on_end({});
    }
    return [] {};
  };
  LoadRun run({.concurrency = 1000, .requests = 1000}, Plan, start);
  EXPECT_EQ(run.Run(kIgnoreProgress).requests.size(), 1000u);
}

TEST(LoadRunTest, ADurationEndsTheSendingAndTheRestFinishes) {
  Answerer answerer([](const PlannedRequest&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return CallEnd{};
  });
  LoadRun run({.concurrency = 2, .duration_us = 30'000}, Plan, answerer.start());
  const RunResult result = run.Run(kIgnoreProgress);
  EXPECT_GE(result.requests.size(), 2u);
  EXPECT_THAT(result.requests, Each(Field(&RequestRecord::code, 0)));
  for (const RequestRecord& record : result.requests) EXPECT_LT(record.due_us, 30'000);
}

TEST(LoadRunTest, ARefusedCallIsSentAgainAfterTheDelayThatTheServerAsksFor) {
  // Given a server that refuses every request once.
  std::map<int, int> times;
  Answerer answerer([&](const PlannedRequest& request) {
    return ++times[request.index] == 1 ? Refused("QUEUE_FULL", 8) : CallEnd{};
  });
  LoadRun run({.concurrency = 2, .requests = 6, .retries = 1}, Plan, answerer.start());
  const RunResult result = run.Run(kIgnoreProgress);
  ASSERT_EQ(result.requests.size(), 6u);
  for (const RequestRecord& record : result.requests) {
    EXPECT_TRUE(record.ok());
    EXPECT_EQ(record.retries, 1);
    EXPECT_GE(record.end_us - record.sent_us, 1000);  // counted from the first attempt
  }
}

TEST(LoadRunTest, WithoutRetriesARefusalIsAResultAndOtherErrorsAlwaysAre) {
  Answerer answerer([&](const PlannedRequest& request) {
    return Refused(request.index == 0 ? "QUEUE_FULL" : "BAD_PARAMETER", request.index == 0 ? 8 : 3);
  });
  LoadRun once({.concurrency = 1, .requests = 1}, Plan, answerer.start());
  EXPECT_EQ(once.Run(kIgnoreProgress).requests[0].reason, "QUEUE_FULL");
  LoadRun more({.concurrency = 1, .requests = 2, .retries = 2}, Plan, answerer.start());
  const RunResult result = more.Run(kIgnoreProgress);
  EXPECT_EQ(result.requests[0].retries, 2);
  EXPECT_EQ(result.requests[1].reason, "BAD_PARAMETER");
  EXPECT_EQ(result.requests[1].retries, 0);
}

TEST(LoadRunTest, AServerThatIsGoneEndsTheRun) {
  Answerer answerer([](const PlannedRequest&) { return Refused("", 14); });
  LoadRun run({.concurrency = 1, .duration_us = 3'600'000'000}, Plan, answerer.start());
  const RunResult result = run.Run(kIgnoreProgress);
  EXPECT_TRUE(result.server_lost);
  EXPECT_EQ(result.requests.size(), 20u);
}

TEST(LoadRunTest, StopCancelsWhatRunsAndKeepsWhatHasFinished) {
  // Given a server that answers the first four requests and then only cancels.
  std::mutex mutex;
  std::vector<CallSink> open;
  LoadRun* to_stop = nullptr;
  const StartCall start = [&](const PlannedRequest& request, CallSink sink) -> CancelCall {
    if (request.index < 4) {
      sink.on_tokens(1);
      sink.on_end({});
      return [] {};
    }
    to_stop->Stop();
    return [sink = std::move(sink)] { sink.on_end(Refused("", 1)); };
  };
  LoadRun run({.concurrency = 2, .duration_us = 3'600'000'000}, Plan, start);
  to_stop = &run;
  // When the run is stopped while two calls are open.
  const RunResult result = run.Run(kIgnoreProgress);
  // Then the four are kept and the two are only counted.
  EXPECT_TRUE(result.interrupted);
  EXPECT_EQ(result.requests.size(), 4u);
  EXPECT_EQ(result.unfinished, 2);
}

}  // namespace
}  // namespace tandem::bench
