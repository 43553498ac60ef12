// Blocks that a plan counted on and that are not there: the request that wanted them ends, typed;
// its neighbours do not notice, and nothing is lost. Blocks have 8 tokens, the window 20.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "scheduler/plan_step.h"
#include "scheduler/roster.h"
#include "scheduler/status_reason.h"
#include "scheduler/step_batch.h"
#include "tests/scheduler/recorder.h"
#include "tests/scheduler/sim_device.h"

namespace tandem::scheduler {
namespace {

// A roster whose planner believes in blocks that do not exist, now and then.
struct World {
  explicit World(uint32_t seed) : random(seed) {
    device.guess = [](const GuessQuery& query) { return engine::Draft{RightGuesses(query)}; };
  }

  int Random(int below) { return static_cast<int>(random() % below); }

  void Arrive() {
    Request request;
    const int common = Random(3);  // prompts of one family begin alike
    for (int i = 0, n = 1 + Random(80); i < n; ++i) request.prompt.push_back(100 + common + 3 * i);
    request.n = 1 + Random(3);
    request.stop.max_tokens = 1 + Random(30);
    request.speculation.mode = Speculation::Mode::kFixed;
    recorders.push_back(std::make_unique<Recorder>(request));
    ++waiting;
    waiting += request.n - 1;
    roster.Arrive({.id = recorders.size(), .request = request, .sink = recorders.back()->Sink()});
  }

  // One turn of the scheduler's loop.
  //   lie  the plan believes in blocks of one group that do not exist
  void Turn(bool lie) {
    Lineup lineup = roster.MakeLineup(cost, ++steps);
    if (lie) lineup.input.free_blocks[Random(2)] += 1 + Random(40);
    const StepPlan plan = PlanStep(lineup.input);
    const std::vector<SeatRows> seats = roster.Apply(lineup, plan, 0);
    if (!seats.empty()) {
      const engine::StepBatch batch = BuildStepBatch(seats);
      engine::StepResult result;
      ASSERT_TRUE(device.Run(batch, result).ok());
      roster.Commit(seats, batch, std::move(result), steps, 0);
    }
    roster.ForgetEnded();
  }

  std::mt19937 random;
  SchedulerConfig config = {.max_slots = 6,
                            .max_step_rows = 32,
                            .max_preemptions = 1000,
                            .max_draft_tokens = 4,
                            .prefix_cache = true};
  ModelLimits limits = {.vocab_size = 50'000,
                        .max_context = 100,
                        .window = 20,
                        .block_tokens = 8,
                        .num_blocks = {10, 16}};
  SimDevice device{config, limits};
  std::atomic<int64_t> waiting = 0;
  Roster roster{config, limits, waiting};
  CostModel cost;
  int64_t steps = 0;
  std::vector<std::unique_ptr<Recorder>> recorders;
};

TEST(AllocationFailureTest, EndsWhoWantedTheBlockAndNobodyElse) {
  std::map<absl::StatusCode, int> ends;
  for (uint32_t seed = 0; seed < 300; ++seed) {
    // Given requests with prompts in common, choices and guesses, and too few blocks for them.
    World world(seed);
    for (int i = 0; i < 8; ++i) world.Arrive();
    // When blocks that were planned for are missing, in every other step.
    int turns = 0;
    while (world.roster.can_run() && ++turns < 3000) {
      world.Turn(/*lie=*/turns % 2 == 0);
      if (turns % 7 == 0 && world.recorders.size() < 16) world.Arrive();
    }
    // Then all have ended: well, with the text they have alone, or for want of memory.
    for (const auto& recorder : world.recorders) {
      ASSERT_EQ(recorder->finished, 1) << "seed " << seed;
      ++ends[recorder->status.code()];
      if (!recorder->status.ok()) {
        EXPECT_EQ(GetReason(recorder->status).reason, "KV_EXHAUSTED");
      }
      EXPECT_THAT(recorder->errors, testing::IsEmpty()) << "seed " << seed;
      EXPECT_EQ(recorder->CheckAgainstExpected(world.limits), "") << "seed " << seed;
    }
    // And no row was written where another looks, and no block is held any more.
    ASSERT_THAT(world.device.errors, testing::IsEmpty()) << "seed " << seed;
    SchedulerStats stats;
    world.roster.FillStats(stats);
    EXPECT_THAT(stats.blocks_used, testing::ElementsAre(0, 0)) << "seed " << seed;
    EXPECT_EQ(stats.running, 0) << "seed " << seed;
    EXPECT_EQ(world.waiting, 0) << "seed " << seed;
  }
  EXPECT_GT(ends[absl::StatusCode::kResourceExhausted], 300);
  EXPECT_GT(ends[absl::StatusCode::kOk], 300);
}

}  // namespace
}  // namespace tandem::scheduler
