// Verification of drafts under emulation, against the round as it is told in mtp.md 2.2.
#include "kernels/cuda/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

using K_WORLD::VerifyRun;
using ::testing::ElementsAre;

struct Step {
  DeviceVector<int32_t> drawn, finite, fed;
  DeviceVector<VerifyRun> runs;
};

struct Verified {
  DeviceVector<int32_t> accepted, token, last_sample, hidden_row, finite;
  bool operator==(const Verified&) const = default;
};

Verified Verify(const Step& step, KernelStream* stream) {
  const size_t count = step.runs.size();
  const DeviceVector<int32_t> empty(count, -7);
  Verified v = {empty, empty, empty, empty, empty};
  K_WORLD::Verify({.drawn = step.drawn.data(),
                   .finite = step.finite.data(),
                   .fed = step.fed.data(),
                   .runs = step.runs.data(),
                   .count = static_cast<int>(count),
                   .accepted = v.accepted.data(),
                   .token = v.token.data(),
                   .last_sample = v.last_sample.data(),
                   .hidden_row = v.hidden_row.data(),
                   .token_finite = v.finite.data()},
                  stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return v;
}

// Samples are taken while the one before drew what this one's row was fed.
Verified VerifyByHand(const Step& step) {
  Verified v;
  for (const VerifyRun& run : step.runs) {
    int taken = 0;
    bool open = true;
    for (int j = 0; open && j < run.samples; ++j) {
      const int sample = run.first_sample + j;
      taken = j;
      open = step.finite[sample] != 0 && j + 1 < run.samples &&
             step.fed[run.first_row + j + 1] == step.drawn[sample];
    }
    const int last = run.first_sample + taken;
    v.accepted.push_back(taken);
    v.token.push_back(step.finite[last] != 0 ? step.drawn[last] : -1);
    v.last_sample.push_back(last);
    v.hidden_row.push_back(run.first_hidden + taken);
    v.finite.push_back(step.finite[last]);
  }
  return v;
}

TEST(VerifyTest, AcceptsTheDraftUpToTheFirstIdThatWasNotDrawn) {
  // Given a draft of three of which two hold, one that holds whole, one whose first is wrong, and a
  // row without a draft.
  Step step;
  step.fed = {9, 10, 11, 12, /**/ 20, 21, /**/ 30, 31, 32, /**/ 40};
  step.drawn = {10, 11, 99, 12, /**/ 21, 55, /**/ 77, 32, 33, /**/ 41};
  step.finite.assign(10, 1);
  step.runs = {{0, 4, 0, 100}, {4, 2, 4, 200}, {6, 3, 6, 300}, {9, 1, 9, 400}};
  KernelStream stream;
  const Verified v = Verify(step, &stream);
  EXPECT_THAT(v.accepted, ElementsAre(2, 1, 0, 0));
  EXPECT_THAT(v.token, ElementsAre(99, 55, 77, 41));
  EXPECT_THAT(v.last_sample, ElementsAre(2, 5, 6, 9));
  EXPECT_THAT(v.hidden_row, ElementsAre(102, 201, 300, 400));
  EXPECT_THAT(v.finite, ElementsAre(1, 1, 1, 1));
}

TEST(VerifyTest, ASampleThatIsNotFiniteEndsItsRunWithoutAToken) {
  // Given a draft of two whose second row has no number to draw from, and one behind a wrong guess.
  Step step;
  step.fed = {1, 2, 3, /**/ 4, 5};
  step.drawn = {2, -1, 9, /**/ 8, -1};
  step.finite = {1, 0, 1, /**/ 1, 0};
  step.runs = {{0, 3, 0, 0}, {3, 2, 3, 3}};
  KernelStream stream;
  const Verified v = Verify(step, &stream);
  EXPECT_THAT(v.accepted, ElementsAre(1, 0));
  EXPECT_THAT(v.token, ElementsAre(-1, 8));
  EXPECT_THAT(v.last_sample, ElementsAre(1, 3));
  EXPECT_THAT(v.finite, ElementsAre(0, 1));
}

TEST(VerifyTest, EqualsThePlainLoopInEverySchedule) {
  // Given 300 runs of up to nine samples whose drafts hold more often than not, one behind the
  // other, with rows between them that nobody draws from.
  std::mt19937 random(1);
  Step step;
  for (int i = 0; i < 300; ++i) {
    const int samples = 1 + static_cast<int>(random() % 9), gap = static_cast<int>(random() % 3);
    for (int r = 0; r < gap; ++r) step.fed.push_back(static_cast<int32_t>(random() % 4));
    step.runs.push_back({.first_sample = static_cast<int32_t>(step.drawn.size()),
                         .samples = samples,
                         .first_row = static_cast<int32_t>(step.fed.size()),
                         .first_hidden = static_cast<int32_t>(step.drawn.size()) + 1000});
    step.fed.push_back(7);
    for (int j = 0; j < samples; ++j) {
      const int32_t drawn = static_cast<int32_t>(random() % 50);
      step.drawn.push_back(drawn);
      step.finite.push_back(random() % 12 != 0);
      if (j + 1 < samples) step.fed.push_back(random() % 4 != 0 ? drawn : 60);
    }
  }
  const Verified want = VerifyByHand(step);
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    EXPECT_EQ(Verify(step, &stream), want);
  }
}

TEST(VerifyTest, NoRunsAreNoWork) {
  KernelStream stream;
  K_WORLD::Verify({}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

TEST(VerifyTest, MovesTheBytesOfItsFormula) {
  if (!kCountsTraffic) return;
  Step step;
  step.fed = {1, 2};
  step.drawn = {2, 3};
  step.finite = {1, 1};
  step.runs = {{0, 2, 0, 0}};
  KernelStream stream;
  Verify(step, &stream);
  const emu::TrafficBytes traffic = stream.TakeTraffic();
  EXPECT_EQ(traffic.read, 16u + 12 + 8);
  EXPECT_EQ(traffic.written, 20u);
}

}  // namespace
}  // namespace tandem::kernels
