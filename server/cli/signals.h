// SIGINT and SIGTERM as calls on a thread of their own.
#pragma once

#include <functional>
#include <thread>

namespace tandem::server {

// Blocks both signals in this thread and in those it creates from now on. To be called before the
// first thread is started; a SignalWatcher then takes them.
void BlockStopSignals();

// Calls `on_signal` with SIGINT or SIGTERM for each that arrives. Calls stop when it is destroyed.
class SignalWatcher {
 public:
  explicit SignalWatcher(std::function<void(int signal)> on_signal);
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  std::thread thread_;
};

}  // namespace tandem::server
