#include "server/health/health_state.h"

#include <algorithm>
#include <utility>

namespace tandem::server {

std::string_view PhaseName(Phase phase) {
  switch (phase) {
    case Phase::kLoading:
      return "loading";
    case Phase::kReady:
      return "ready";
    case Phase::kDraining:
      return "draining";
    case Phase::kStopped:
      return "stopped";
    case Phase::kFailed:
      return "failed";
  }
  return "failed";
}

void HealthState::SetPhase(Phase phase) {
  const std::lock_guard lock(mutex_);
  phase_ = phase;
}

Phase HealthState::phase() const {
  const std::lock_guard lock(mutex_);
  return phase_;
}

void HealthState::SetProgress(double progress) {
  const std::lock_guard lock(mutex_);
  progress_ = std::clamp(progress, 0.0, 1.0);
}

double HealthState::progress() const {
  const std::lock_guard lock(mutex_);
  return progress_;
}

void HealthState::WatchEngine(EngineProbe probe) {
  const std::lock_guard lock(mutex_);
  probe_ = std::move(probe);
}

HealthState::Engine HealthState::LookAtEngine() const {
  if (!probe_.stats) return {};
  const scheduler::SchedulerStats stats = probe_.stats();
  return {.age_us = std::max<int64_t>(0, probe_.now_us() - stats.last_turn_us),
          .down = stats.engine_down};
}

bool HealthState::Ready() const {
  const std::lock_guard lock(mutex_);
  const Engine engine = LookAtEngine();
  return phase_ == Phase::kReady && !engine.down && engine.age_us < config_.ready_stall_us;
}

bool HealthState::Live() const {
  const std::lock_guard lock(mutex_);
  const Engine engine = LookAtEngine();
  return phase_ != Phase::kFailed && !engine.down && engine.age_us < config_.live_stall_us;
}

int64_t HealthState::HeartbeatAgeUs() const {
  const std::lock_guard lock(mutex_);
  return LookAtEngine().age_us;
}

}  // namespace tandem::server
