// Timers of calls, all on one thread: a stalled reader's patience, a watcher's next message.
//
// Threads   Start and Cancel from any thread, also from inside a timer.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

namespace tandem::server {

class CallTimers {
 public:
  using Clock = std::chrono::steady_clock;
  using Id = std::pair<Clock::time_point, uint64_t>;  // due time, and a number of its own

  CallTimers();
  // Drops what is not due yet.
  ~CallTimers();
  CallTimers(const CallTimers&) = delete;
  CallTimers& operator=(const CallTimers&) = delete;

  // Runs `fire`, which must be quick, once and not before `due`.
  Id Start(Clock::time_point due, std::function<void()> fire);
  // Afterwards the timer neither runs nor will. Waits for it if it runs just now, so hold no lock
  // that it takes; inside the timer itself this returns at once.
  void Cancel(Id id);

 private:
  void Run();

  std::mutex mutex_;  // all but the thread
  std::condition_variable changed_;
  std::map<Id, std::function<void()>> timers_;
  uint64_t last_number_ = 0;
  Id running_ = {};  // number 0: none
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace tandem::server
