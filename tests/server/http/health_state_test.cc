#include "server/health/health_state.h"

#include "gtest/gtest.h"

namespace tandem::server {
namespace {

// An engine whose snapshot and clock the test sets.
struct FakeEngine {
  scheduler::SchedulerStats stats;
  int64_t now_us = 1'000'000'000;
  EngineProbe probe() {
    return {.stats = [this] { return stats; }, .now_us = [this] { return now_us; }};
  }
};

TEST(HealthStateTest, ALoadingProcessIsAliveAndNotReady) {
  HealthState health;
  EXPECT_TRUE(health.Live());
  EXPECT_FALSE(health.Ready());
}

TEST(HealthStateTest, ReadinessFollowsThePhaseAndLivenessSurvivesTheDrain) {
  HealthState health;
  health.SetPhase(Phase::kReady);
  EXPECT_TRUE(health.Ready());
  health.SetPhase(Phase::kDraining);
  EXPECT_FALSE(health.Ready());
  EXPECT_TRUE(health.Live());
  health.SetPhase(Phase::kFailed);
  EXPECT_FALSE(health.Live());
}

TEST(HealthStateTest, AnEngineThatStandsStillLosesReadinessFirstAndLivenessLater) {
  // Given a ready process whose engine has just gone round.
  FakeEngine engine;
  HealthState health({.ready_stall_us = 10, .live_stall_us = 100});
  health.SetPhase(Phase::kReady);
  engine.stats.last_turn_us = engine.now_us;
  health.WatchEngine(engine.probe());
  EXPECT_TRUE(health.Ready());
  // When it is silent for longer than either limit.
  engine.now_us += 50;
  EXPECT_FALSE(health.Ready());
  EXPECT_TRUE(health.Live());
  EXPECT_EQ(health.HeartbeatAgeUs(), 50);
  engine.now_us += 50;
  EXPECT_FALSE(health.Live());
  // Then the next turn brings both back.
  engine.stats.last_turn_us = engine.now_us;
  EXPECT_TRUE(health.Ready());
  EXPECT_TRUE(health.Live());
}

TEST(HealthStateTest, AFailedEngineIsNeitherReadyNorAlive) {
  FakeEngine engine;
  HealthState health;
  health.SetPhase(Phase::kReady);
  engine.stats.last_turn_us = engine.now_us;
  engine.stats.engine_down = true;
  health.WatchEngine(engine.probe());
  EXPECT_FALSE(health.Ready());
  EXPECT_FALSE(health.Live());
  // Until nobody looks at it any more.
  health.WatchEngine({});
  EXPECT_TRUE(health.Live());
}

}  // namespace
}  // namespace tandem::server
