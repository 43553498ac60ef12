#include "server/generation/text_pool.h"

#include <algorithm>
#include <utility>

namespace tandem::server {

TextPool::TextPool(int threads) : max_running_long_(std::max(1, threads - 1)) {
  for (int i = 0; i < std::max(1, threads); ++i) threads_.emplace_back([this] { Work(); });
}

TextPool::~TextPool() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

// Below, waking happens under the mutex: once it is released, the job may run and end the pool.
void TextPool::Run(Job job) {
  std::lock_guard lock(mutex_);
  jobs_.push_back(std::move(job));
  wake_.notify_one();
}

void TextPool::RunLong(Job job) {
  std::lock_guard lock(mutex_);
  long_jobs_.push_back(std::move(job));
  wake_.notify_one();
}

void TextPool::RunAt(Clock::time_point due, Job job) {
  std::lock_guard lock(mutex_);
  timers_.push({.due = due, .job = std::make_shared<Job>(std::move(job))});
  wake_.notify_one();  // whoever wakes takes the new due time into account
}

bool TextPool::TakeJob(Job& job, bool& is_long) {
  while (!timers_.empty() && timers_.top().due <= Clock::now()) {
    jobs_.push_back(std::move(*timers_.top().job));
    timers_.pop();
  }
  is_long = jobs_.empty();
  if (is_long && (long_jobs_.empty() || running_long_ == max_running_long_)) return false;
  std::deque<Job>& jobs = is_long ? long_jobs_ : jobs_;
  job = std::move(jobs.front());
  jobs.pop_front();
  return true;
}

void TextPool::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    Job job;
    bool is_long = false;
    if (TakeJob(job, is_long)) {
      running_long_ += is_long ? 1 : 0;
      // Several timers may have come due at once; at the end, somebody may wait for the last job.
      if (!jobs_.empty() || !long_jobs_.empty() || ending_) wake_.notify_one();
      lock.unlock();
      job();
      job = nullptr;  // what it holds goes away outside the lock
      lock.lock();
      running_long_ -= is_long ? 1 : 0;
    } else if (ending_ && long_jobs_.empty()) {
      wake_.notify_all();
      return;
    } else if (timers_.empty()) {
      wake_.wait(lock);
    } else {
      const Clock::time_point due = timers_.top().due;
      wake_.wait_until(lock, due);
    }
  }
}

struct Strand::State {
  explicit State(TextPool& pool) : pool(pool) {}

  TextPool& pool;
  std::mutex mutex;
  std::vector<TextPool::Job> posted;  // guarded by mutex
  bool scheduled = false;             // guarded by mutex: a pool job will look at `posted`
};

Strand::Strand(TextPool& pool) : state_(std::make_shared<State>(pool)) {}

void Strand::Post(TextPool::Job job) {
  {
    std::lock_guard lock(state_->mutex);
    state_->posted.push_back(std::move(job));
    if (state_->scheduled) return;
    state_->scheduled = true;
  }
  state_->pool.Run([state = state_] { RunPosted(state); });
}

// Runs what is there now; what comes meanwhile queues behind the other strands.
void Strand::RunPosted(const std::shared_ptr<State>& state) {
  std::vector<TextPool::Job> jobs;
  {
    std::lock_guard lock(state->mutex);
    jobs.swap(state->posted);
  }
  for (TextPool::Job& job : jobs) {
    job();
    job = nullptr;
  }
  {
    std::lock_guard lock(state->mutex);
    if (state->posted.empty()) {
      state->scheduled = false;
      return;
    }
  }
  state->pool.Run([state] { RunPosted(state); });
}

}  // namespace tandem::server
