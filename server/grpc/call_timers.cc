#include "server/grpc/call_timers.h"

namespace tandem::server {

CallTimers::CallTimers() : thread_([this] { Run(); }) {}

CallTimers::~CallTimers() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

CallTimers::Id CallTimers::Start(Clock::time_point due, std::function<void()> fire) {
  const std::lock_guard lock(mutex_);
  const Id id(due, ++last_number_);
  timers_.emplace(id, std::move(fire));
  if (timers_.begin()->first == id) changed_.notify_all();
  return id;
}

void CallTimers::Cancel(Id id) {
  std::unique_lock lock(mutex_);
  timers_.erase(id);
  if (std::this_thread::get_id() == thread_.get_id()) return;
  changed_.wait(lock, [&] { return running_ != id; });
}

void CallTimers::Run() {
  std::unique_lock lock(mutex_);
  while (!ending_) {
    if (timers_.empty()) {
      changed_.wait(lock);
    } else if (const Clock::time_point due = timers_.begin()->first.first; due > Clock::now()) {
      changed_.wait_until(lock, due);
    } else {
      auto timer = timers_.extract(timers_.begin());
      running_ = timer.key();
      lock.unlock();
      timer.mapped()();
      timer.mapped() = nullptr;  // what it holds goes away outside the lock
      lock.lock();
      running_ = {};
      changed_.notify_all();
    }
  }
}

}  // namespace tandem::server
