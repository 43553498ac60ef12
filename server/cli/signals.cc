#include "server/cli/signals.h"

#include <pthread.h>
#include <signal.h>

#include <utility>

namespace tandem::server {
namespace {

constexpr int kLeave = SIGUSR2;  // ends the watcher

sigset_t WatchedSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, kLeave);
  return signals;
}

}  // namespace

void BlockStopSignals() {
  const sigset_t signals = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

SignalWatcher::SignalWatcher(std::function<void(int signal)> on_signal)
    : thread_([on_signal = std::move(on_signal)] {
        const sigset_t signals = WatchedSignals();
        while (true) {
          int signal = 0;
          if (sigwait(&signals, &signal) != 0) continue;
          if (signal == kLeave) return;
          on_signal(signal);
        }
      }) {}

SignalWatcher::~SignalWatcher() {
  pthread_kill(thread_.native_handle(), kLeave);
  thread_.join();
}

}  // namespace tandem::server
