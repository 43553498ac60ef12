// How many tokens are guessed for whom, on given estimates and costs.
#include "scheduler/draft_length.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tests/scheduler/draft_simulation.h"

namespace tandem::scheduler {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::Ge;
using testing::Le;

CostModel CostsOf(const Machine& machine) {
  DraftSimulation simulation(machine, /*seed=*/1);
  simulation.WarmUp(256, 64);
  return simulation.cost;
}

// A sequence that has verified so many guesses at every place, of which `rate` held.
DraftHistory HistoryOf(float rate) {
  DraftHistory history;
  for (DraftHistory::Place& place : history.places) place = {.held = rate, .weight = 10};
  history.rounds = 100;
  history.pause_rounds = 32;
  return history;
}

DraftWish WishOf(float rate, int max_tokens = kPlaces) {
  return {.mode = Speculation::Mode::kAuto,
          .max_tokens = max_tokens,
          .pending = 0,
          .history = HistoryOf(rate)};
}

// On a step on which nothing is tried.
DraftChoice Choose(const std::vector<DraftWish>& wishes, const Machine& machine,
                   const DraftPrior& prior = {}) {
  return ChooseDraftLengths(wishes, prior, CostsOf(machine), /*step=*/1);
}

TEST(DraftLengthTest, GuessesOnWhileAGuessIsWorthMoreThanItsCost) {
  // Given one sequence, a step of 1005 us, 5 us more per row, and 52 us per forward of the drafter.
  // A guess at depth d is worth 0.8^d tokens; after k of them (1 + .. + 0.8^k) / (1005 + 57 k) is
  // largest at 7, for 0.5 at 3.
  EXPECT_THAT(Choose({WishOf(0.8f)}, CheapRows()).tokens, ElementsAre(7));
  EXPECT_THAT(Choose({WishOf(0.5f)}, CheapRows()).tokens, ElementsAre(3));
  EXPECT_THAT(Choose({WishOf(1.0f)}, CheapRows()).tokens, ElementsAre(kPlaces));
  EXPECT_THAT(Choose({WishOf(0.0f)}, CheapRows()).tokens, ElementsAre(0));
  EXPECT_THAT(Choose({WishOf(0.8f, /*max_tokens=*/2)}, CheapRows()).tokens, ElementsAre(2));
}

TEST(DraftLengthTest, PredictsWhatItChose) {
  const DraftChoice choice = Choose({WishOf(0.5f, 1)}, CheapRows());
  EXPECT_NEAR(choice.plain_tokens_per_s, 1e6 / 1005, 0.1);
  EXPECT_NEAR(choice.drafted_tokens_per_s, 1.5e6 / (1010 + 52), 0.1);
  EXPECT_THAT(choice.reasons, ElementsAre(DraftReason::kPays));
}

TEST(DraftLengthTest, ExpensiveRowsAreNotSpentOnGuesses) {
  for (const int slots : {1, 4, 64}) {
    const DraftChoice choice =
        Choose(std::vector<DraftWish>(slots, WishOf(0.95f)), ExpensiveRows());
    EXPECT_THAT(choice.tokens, Each(0)) << slots;
    EXPECT_THAT(choice.reasons, Each(DraftReason::kCost)) << slots;
    EXPECT_EQ(choice.plain_tokens_per_s, choice.drafted_tokens_per_s);
  }
}

TEST(DraftLengthTest, LessThanTenPercentIsNotWorthTheTrouble) {
  // Given free rows, so that a guess that holds with 0.17 against a cost of 5.2 % wins 11.2 %, and
  // one with 0.14 wins 8.4 %.
  const Machine machine = {.row_us = 0};
  EXPECT_THAT(Choose({WishOf(0.17f)}, machine).tokens, ElementsAre(1));
  EXPECT_THAT(Choose({WishOf(0.14f)}, machine).tokens, ElementsAre(0));
}

TEST(DraftLengthTest, OnlyThoseThatPayDraft) {
  // Given sequences of different acceptance.
  const DraftChoice choice =
      Choose({WishOf(0.9f), WishOf(0.02f), WishOf(0.6f), WishOf(0.0f), WishOf(0.9f)}, CheapRows());
  // Then the better ones draft longer, and the bad ones not at all, for their own fault.
  EXPECT_GT(choice.tokens[0], choice.tokens[2]);
  EXPECT_EQ(choice.tokens[0], choice.tokens[4]);
  EXPECT_GE(choice.tokens[2], 1);
  EXPECT_EQ(choice.tokens[1], 0);
  EXPECT_EQ(choice.tokens[3], 0);
  EXPECT_EQ(choice.reasons[0], DraftReason::kPays);
  EXPECT_EQ(choice.reasons[1], DraftReason::kAcceptance);
  EXPECT_EQ(choice.reasons[3], DraftReason::kAcceptance);
}

TEST(DraftLengthTest, TheDrafterIsSharedByThoseThatDraft) {
  // Given a drafter of 60 % of a step, whatever its slots: too much for a sequence alone, which is
  // not its fault, but not for sixteen.
  const Machine machine = {.row_us = 5, .draft_us = 600, .draft_slot_us = 0};
  std::vector<DraftWish> wishes = {WishOf(0.95f)};
  wishes.resize(16, WishOf(0.0f));
  const DraftChoice alone = Choose(wishes, machine);
  EXPECT_THAT(alone.tokens, Each(0));
  EXPECT_EQ(alone.reasons[0], DraftReason::kCost);
  EXPECT_THAT(Choose(std::vector<DraftWish>(16, WishOf(0.95f)), machine).tokens, Each(Ge(1)));
}

TEST(DraftLengthTest, ALongDraftOfOneDoesNotTakeTheShortOnesOfMany) {
  // Given one sequence whose guesses always hold among fifteen at 0.5, and a drafter for which a
  // forward costs as much for one slot as for all.
  const Machine machine = {.row_us = 5, .draft_us = 150, .draft_slot_us = 0};
  std::vector<DraftWish> wishes(16, WishOf(0.5f));
  wishes[3] = WishOf(1.0f);
  // Then they all draft, and not one of them eight times.
  const DraftChoice choice = Choose(wishes, machine);
  EXPECT_THAT(choice.tokens, Each(Ge(1)));
  EXPECT_THAT(choice.tokens, Each(Le(4)));
}

TEST(DraftLengthTest, FixedSequencesGetTheirMaximumAndCountAsCosts) {
  // Given the compute-bound machine.
  DraftWish fixed = WishOf(0.0f, 3);
  fixed.mode = Speculation::Mode::kFixed;
  DraftWish off = WishOf(1.0f);
  off.mode = Speculation::Mode::kOff;
  DraftWish none = WishOf(1.0f, 0);
  const DraftChoice choice = Choose({fixed, off, none, WishOf(0.5f)}, ExpensiveRows());
  EXPECT_THAT(choice.tokens, ElementsAre(3, 0, 0, 0));
  EXPECT_THAT(choice.reasons, ElementsAre(DraftReason::kFixed, DraftReason::kNotAllowed,
                                          DraftReason::kNotAllowed, DraftReason::kAcceptance));
  // Three guesses in vain: seven rows of 1 ms and three forwards of 52 us for four tokens.
  EXPECT_NEAR(choice.plain_tokens_per_s, 4e6 / (7 * 1000 + 3 * 52), 0.1);
}

TEST(DraftLengthTest, ADrafterThatRunsAnywayMakesGuessesCheaper) {
  // Given a guess of 0.25 that costs a forward of 30 %: not alone, but beside a fixed sequence that
  // has it run anyway.
  const Machine machine = {.row_us = 5, .draft_us = 300, .draft_slot_us = 0};
  DraftWish fixed = WishOf(0.0f, 1);
  fixed.mode = Speculation::Mode::kFixed;
  EXPECT_THAT(Choose({WishOf(0.25f)}, machine).tokens, ElementsAre(0));
  EXPECT_THAT(Choose({fixed, WishOf(0.25f)}, machine).tokens, ElementsAre(1, 1));
}

TEST(DraftLengthTest, UnknownCostsAreLearntBeforeAnythingIsSpent) {
  CostModel cost;
  const std::vector<DraftWish> wishes = {WishOf(0.9f), WishOf(0.9f)};
  // Given nothing, it decodes plainly; ...
  DraftChoice choice = ChooseDraftLengths(wishes, {}, cost, 1);
  EXPECT_THAT(choice.tokens, Each(0));
  EXPECT_THAT(choice.reasons, Each(DraftReason::kUnmeasured));
  EXPECT_EQ(choice.plain_tokens_per_s, 0);
  // ... given the cost of that, it tries the drafter with a guess each; ...
  Observe(cost, 0, 2, 1000);
  choice = ChooseDraftLengths(wishes, {}, cost, 2);
  EXPECT_THAT(choice.tokens, Each(1));
  EXPECT_THAT(choice.reasons, Each(DraftReason::kTrial));
  // ... given both, it decides.
  ObserveDrafting(cost, choice.tokens, 20);
  choice = ChooseDraftLengths(wishes, {}, cost, 3);
  EXPECT_THAT(choice.reasons, Each(DraftReason::kPays));
  EXPECT_EQ(ChooseDraftLengths(wishes, {}, cost, 3), choice);
}

TEST(DraftLengthTest, EstimatesForgetATenthWithEveryTrial) {
  DraftHistory history = HistoryOf(0.5f);
  DraftPrior prior;
  // When two of three guesses hold, the first two places were tried well, the third badly, and the
  // fourth not.
  Observe(history, prior, 3, 2);
  EXPECT_FLOAT_EQ(history.places[0].held, 0.55f);
  EXPECT_FLOAT_EQ(history.places[1].held, 0.55f);
  EXPECT_FLOAT_EQ(history.places[2].held, 0.45f);
  EXPECT_FLOAT_EQ(history.places[3].held, 0.5f);
  EXPECT_FLOAT_EQ(history.places[2].weight, 10.0f);
}

TEST(DraftLengthTest, NewSequencesStartWhereEarlierOnesWereWhenYoung) {
  DraftPrior prior;
  EXPECT_FLOAT_EQ(prior.held[0], 0.7f);
  EXPECT_FLOAT_EQ(prior.held[1], 0.6f);
  EXPECT_FLOAT_EQ(prior.held[2], 0.5f);
  // Given ten sequences whose first guess always holds and whose second never does; what is far
  // into them does not count.
  for (int i = 0; i < 10; ++i) {
    DraftHistory history;
    for (int round = 0; round < 8; ++round) Observe(history, prior, 2, 1);
    for (int round = 0; round < 100; ++round) Observe(history, prior, 2, 0);
  }
  EXPECT_GT(prior.held[0], 0.9f);
  EXPECT_LT(prior.held[1], 0.1f);
  EXPECT_LT(prior.held[2], 0.1f);
  // Then a new one starts with one guess, though there was no trial of its own.
  const DraftWish fresh = {.max_tokens = kPlaces, .history = {}};
  EXPECT_THAT(Choose({fresh}, CheapRows(), prior).tokens, ElementsAre(1));
  EXPECT_THAT(Choose({fresh}, CheapRows()).tokens, ElementsAre(Ge(3)));
}

TEST(DraftLengthTest, TrialsComeAfterThirtyTwoRoundsThenAfterPausesThatDouble) {
  // Given a sequence whose guesses never hold.
  DraftSimulation simulation(CheapRows(), /*seed=*/1);
  simulation.WarmUp(16, 1);
  simulation.seats = {{.acceptance = Always(0.0), .tokens_left = 1 << 30, .history = HistoryOf(0)}};
  std::vector<int64_t> tried_at;
  for (int i = 0; i < 2500; ++i) {
    simulation.Step();
    if (simulation.choice.tokens[0] == 0) continue;
    EXPECT_EQ(simulation.choice.tokens[0], 1);
    EXPECT_EQ(simulation.choice.reasons[0], DraftReason::kTrial);
    tried_at.push_back(simulation.step);
  }
  // Then it is tried on steps that are the same for all, at least as far apart as that. The first
  // step does not know of its own round yet.
  std::vector<int64_t> pauses;
  for (size_t i = 1; i < tried_at.size(); ++i) pauses.push_back(tried_at[i] - tried_at[i - 1]);
  EXPECT_EQ(tried_at[0], 48);
  EXPECT_THAT(pauses, ElementsAre(80, 144, 272, 528, 528, 528));
}

TEST(DraftLengthTest, ATrialThatHeldIsRepeatedAtOnceUnlessThatWouldNotPay) {
  // Given a sequence, alone and among fifteen, that is far from paying but whose last trial held.
  const Machine machine = {.row_us = 5, .draft_us = 400, .draft_slot_us = 0};
  DraftWish held = WishOf(0.1f);
  DraftPrior prior;
  Observe(held.history, prior, 1, 1);
  EXPECT_EQ(held.history.pause_rounds, 0);
  std::vector<DraftWish> wishes = {held};
  // Then it is tried again in a step that is nobody else's, ...
  EXPECT_THAT(Choose(wishes, machine).tokens, ElementsAre(1));
  EXPECT_THAT(Choose(wishes, machine).reasons, ElementsAre(DraftReason::kTrial));
  // ... but not before that guess is verified, ...
  wishes[0].pending = 1;
  EXPECT_THAT(Choose(wishes, machine).tokens, ElementsAre(0));
  // ... nor when the drafter would run for it alone, in a step of many ...
  wishes = {held};
  wishes.resize(16, WishOf(0.0f));
  EXPECT_THAT(Choose(wishes, machine).tokens, Each(0));
  // ... nor once a guess failed.
  Observe(held.history, prior, 1, 0);
  EXPECT_EQ(held.history.pause_rounds, 32);
  EXPECT_THAT(Choose({held}, machine).tokens, ElementsAre(0));
}

TEST(DraftLengthTest, SequencesAreTriedInTheSameStep) {
  // Given bad sequences that were switched off at different times.
  DraftSimulation simulation(CheapRows(), /*seed=*/1);
  simulation.WarmUp(32, 16);
  for (int i = 0; i < 12; ++i) {
    simulation.seats.push_back({.acceptance = Always(0.0), .tokens_left = 1 << 30});
    simulation.seats.back().history = HistoryOf(0);
    simulation.seats.back().history.idle_rounds = 1 + i;
  }
  int steps_with_trials = 0, trials = 0;
  for (int i = 0; i < 64; ++i) {
    simulation.Step();
    const int tried = static_cast<int>(
        std::count(simulation.choice.tokens.begin(), simulation.choice.tokens.end(), 1));
    steps_with_trials += tried > 0;
    trials += tried;
  }
  EXPECT_EQ(trials, 12);
  EXPECT_EQ(steps_with_trials, 1);
}

TEST(DraftLengthTest, NothingIsTriedWhereGoodGuessesWouldNotPay) {
  DraftSimulation simulation(ExpensiveRows(), /*seed=*/1);
  simulation.WarmUp(16, 4);
  for (int i = 0; i < 4; ++i) {
    simulation.seats.push_back({.acceptance = Always(0.0), .tokens_left = 1 << 30});
  }
  // Then guesses are made only where the costs are tried, which goes by the step alone.
  for (int i = 0; i < 2000; ++i) {
    simulation.Step();
    if (simulation.step % 64 == 0) continue;
    EXPECT_THAT(simulation.choice.tokens, Each(0)) << simulation.step;
    EXPECT_THAT(simulation.choice.reasons, Each(DraftReason::kCost)) << simulation.step;
  }
}

}  // namespace
}  // namespace tandem::scheduler
