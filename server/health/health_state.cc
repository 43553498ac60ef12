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
  if (probe_.now_us) last_idle_us_ = probe_.now_us();
}

HealthState::Engine HealthState::LookAtEngine() {
  if (!probe_.stats) return {};
  const scheduler::SchedulerStats stats = probe_.stats();
  const int64_t now_us = probe_.now_us();
  const bool busy = stats.running > 0 || stats.waiting > 0;
  if (!busy) last_idle_us_ = now_us;
  const int64_t last_sign_us = std::max(stats.last_turn_us, last_idle_us_);
  return {.age_us = std::max<int64_t>(0, now_us - last_sign_us), .down = stats.engine_down};
}

bool HealthState::Ready() {
  const std::lock_guard lock(mutex_);
  const Engine engine = LookAtEngine();
  return phase_ == Phase::kReady && !engine.down && engine.age_us < config_.ready_stall_us;
}

bool HealthState::Live() {
  const std::lock_guard lock(mutex_);
  const Engine engine = LookAtEngine();
  return phase_ != Phase::kFailed && !engine.down && engine.age_us < config_.live_stall_us;
}

int64_t HealthState::HeartbeatAgeUs() {
  const std::lock_guard lock(mutex_);
  return LookAtEngine().age_us;
}

}  // namespace tandem::server
