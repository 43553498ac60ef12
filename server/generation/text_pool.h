// A few threads for work on text, and queues that keep one request's work in order.
//
// Short jobs go before long ones, and one thread is kept for them: a prompt of megabytes must not
// hold up everybody's tokens.
//
// In        jobs from any thread.
// Out       each job run once, on one of the pool's threads.
// Not here  what the jobs do (generator.h).
// Threads   every member function from any thread, jobs included. Jobs must not wait for each
// other.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <queue>
#include <thread>
#include <vector>

namespace tandem::server {

class TextPool {
 public:
  using Job = std::function<void()>;
  using Clock = std::chrono::steady_clock;

  explicit TextPool(int threads);  // at least 1
  // Runs what is queued, drops what is not due yet, and ends the threads. Nothing may be added from
  // then on, but by the jobs that still run.
  ~TextPool();
  TextPool(const TextPool&) = delete;
  TextPool& operator=(const TextPool&) = delete;

  void Run(Job job);                           // microseconds of work
  void RunLong(Job job);                       // up to seconds: tokenizing a prompt
  void RunAt(Clock::time_point due, Job job);  // as Run, not before `due`

 private:
  struct Timer {
    Clock::time_point due;
    std::shared_ptr<Job> job;  // shared only because a priority queue gives out const references
    bool operator>(const Timer& other) const { return due > other.due; }
  };

  void Work();
  bool TakeJob(Job& job, bool& is_long);  // needs the mutex

  std::mutex mutex_;  // guards all below but the threads
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  std::deque<Job> long_jobs_;
  int running_long_ = 0;
  int max_running_long_;
  std::priority_queue<Timer, std::vector<Timer>, std::greater<Timer>> timers_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

// Jobs that run one at a time in the order in which they were posted. Strands share the pool's
// threads; a job sees everything that the earlier ones did. Copies are the same strand.
class Strand {
 public:
  explicit Strand(TextPool& pool);  // the pool outlives the last Post

  void Post(TextPool::Job job);

 private:
  struct State;
  static void RunPosted(const std::shared_ptr<State>& state);

  std::shared_ptr<State> state_;
};

}  // namespace tandem::server
