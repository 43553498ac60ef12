// The thread team: everybody works, every index runs once, and nobody is lost between jobs.
#include "kernels/cpu/thread_team.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <numeric>

#include "kernels/cpu/cpu_features.h"

namespace tandem::kernels {
namespace {

using testing::Each;

class ThreadTeamTest : public testing::TestWithParam<int> {
 protected:
  ThreadTeam team_{GetParam(), AffinityCpus()};
};

INSTANTIATE_TEST_SUITE_P(Threads, ThreadTeamTest, testing::Values(1, 2, 3, 8, 64));

TEST_P(ThreadTeamTest, RunCallsEveryThreadOnce) {
  struct Calls {
    std::thread::id caller = std::this_thread::get_id();
    std::vector<int> counts;  // [threads], each written by its own thread
    bool caller_is_first = false;
  } calls;
  calls.counts.resize(GetParam());
  for (int round = 0; round < 50; ++round) {
    team_.Run(
        [](void* context, int thread, int threads) {
          Calls& calls = *static_cast<Calls*>(context);
          ASSERT_EQ(threads, static_cast<int>(calls.counts.size()));
          ++calls.counts[thread];
          if (thread == 0) calls.caller_is_first = calls.caller == std::this_thread::get_id();
        },
        &calls);
  }
  EXPECT_EQ(team_.threads(), GetParam());
  EXPECT_THAT(calls.counts, Each(50));
  EXPECT_TRUE(calls.caller_is_first);
}

TEST_P(ThreadTeamTest, ForEachHandsOutEveryIndexOnce) {
  for (int64_t count : {0, 1, 7, 16, 17, 1000}) {
    for (int64_t piece : {1, 3, 1000}) {
      std::vector<int> runs(count);  // each written by whoever holds the index
      team_.ForEach(count, piece, [&](int thread, int64_t begin, int64_t end) {
        EXPECT_LT(thread, team_.threads());
        for (int64_t i = begin; i < end; ++i) ++runs[i];
      });
      EXPECT_THAT(runs, Each(1)) << count << " by " << piece;
    }
  }
}

TEST_P(ThreadTeamTest, ForRunsHandsOutEveryIndexOnce) {
  for (bool alone : {false, true}) {
    for (int64_t count : {0, 1, 7, 16, 17, 1000}) {
      std::vector<int> runs(count);
      team_.ForRuns(count, alone, [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++runs[i];
      });
      EXPECT_THAT(runs, Each(1)) << count;
    }
  }
}

TEST_P(ThreadTeamTest, WorkAloneStaysOnTheCaller) {
  std::vector<std::thread::id> ids(100);
  const auto body = [&](int thread, int64_t begin, int64_t end) {
    EXPECT_EQ(thread, 0);
    for (int64_t i = begin; i < end; ++i) ids[i] = std::this_thread::get_id();
  };
  team_.ForEach(100, 100, body);
  EXPECT_THAT(ids, Each(std::this_thread::get_id()));
  ids.assign(100, {});
  team_.ForRuns(100, /*alone=*/true, body);
  EXPECT_THAT(ids, Each(std::this_thread::get_id()));
}

TEST_P(ThreadTeamTest, ResultsOfOneJobAreSeenByTheNext) {
  // Given jobs of all kinds that each add the neighbour's value of the job before, with pauses in
  // which workers fall asleep.
  constexpr int64_t kCount = 64;
  std::vector<int64_t> values(kCount, 1), next(kCount);
  int64_t want = 1;
  for (int round = 0; round < 40; ++round) {
    const auto body = [&](int, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) next[i] = values[i] + values[(i + 1) % kCount];
    };
    if (round % 2 == 0) {
      team_.ForEach(kCount, 1, body);
    } else {
      team_.ForRuns(kCount, false, body);
    }
    std::swap(values, next);
    want *= 2;
    if (round % 10 == 9) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_THAT(values, Each(want));
}

TEST_P(ThreadTeamTest, ManySmallJobsLoseNothing) {
  std::atomic<int64_t> sum{0};
  const int rounds = GetParam() > 8 ? 200 : 2000;
  for (int round = 0; round < rounds; ++round) {
    team_.ForEach(5, 1, [&](int, int64_t begin, int64_t end) { sum += end - begin; });
  }
  EXPECT_EQ(sum, 5 * rounds);
}

TEST(ThreadTeamLifeTest, ATeamThatNeverWorkedEnds) {
  for (int threads : {1, 2, 16}) ThreadTeam team(threads, AffinityCpus());
}

TEST(ThreadTeamLifeTest, TheCallerKeepsItsAffinity) {
  // Given a team that has worked.
  const std::vector<int> before = AffinityCpus();
  ThreadTeam team(2, before);
  team.Run([](void*, int, int) {}, nullptr);
  // Then the caller, whose threads inherit its mask, is not pinned.
  EXPECT_EQ(AffinityCpus(), before);
}

}  // namespace
}  // namespace tandem::kernels
