// Whether this process should get calls, and whether it should be restarted.
//
// In        the phase, from whoever starts and stops the process; the scheduler's snapshot.
// Out       answers for probes: the gRPC health service (server/grpc), /readyz and /livez
//           (server/http). A full queue changes neither answer: it would move load and flap.
// Threads   any.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string_view>

#include "kernels/ops.h"
#include "scheduler/scheduler.h"

namespace tandem::server {

enum class Phase { kLoading, kReady, kDraining, kStopped, kFailed };

// "loading", "ready", "draining", "stopped", "failed".
std::string_view PhaseName(Phase phase);

// How to look at the engine without waiting for it.
struct EngineProbe {
  std::function<scheduler::SchedulerStats()> stats;
  scheduler::Clock now_us;
  // K and V rows of a group that were not stored as they came; null: not known.
  std::function<const kernels::KvEncodeCounts&(engine::KvGroup)> kv_encoded;
};

struct HealthConfig {
  int64_t ready_stall_us = 10'000'000;  // an engine silent for longer gets no more calls
  int64_t live_stall_us = 120'000'000;  // ... and for longer than this, a restart
};

class HealthState {
 public:
  explicit HealthState(const HealthConfig& config = {}) : config_(config) {}

  // Starts as kLoading. kReady, kDraining and kStopped follow in this order; kFailed any time.
  void SetPhase(Phase phase);
  Phase phase() const;

  // Share of the model that is loaded, 0..1.
  void SetProgress(double progress);
  double progress() const;

  // From now on a stalled or failed engine counts. An empty probe ends that; afterwards the old one
  // is not called any more.
  void WatchEngine(EngineProbe probe);

  // Model loaded, not draining, engine healthy.
  bool Ready() const;
  // Not failed, and the engine healthy or not there yet.
  bool Live() const;
  // Time since the engine last went round, which it does once a second when idle; 0 while there is
  // none.
  int64_t HeartbeatAgeUs() const;

 private:
  struct Engine {
    int64_t age_us = 0;
    bool down = false;
  };
  Engine LookAtEngine() const;  // needs mutex_

  const HealthConfig config_;
  mutable std::mutex mutex_;
  Phase phase_ = Phase::kLoading;
  double progress_ = 0.0;
  EngineProbe probe_;
};

}  // namespace tandem::server
