#include "server/cli/assumed_acceptance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "generation_rig.h"

namespace tandem::server {
namespace {

using scheduler::Speculation;
using ::testing::ElementsAre;

TEST(CoinTest, EveryGuessFallsByItsOwnChanceAndTheLastChanceCountsOn) {
  const AssumedAcceptance assumed = {.chances = {0.8, 0.25}, .coin_seed = 5};
  constexpr int kTosses = 20000;
  std::array<int, 3> heads = {};
  for (int position = 0; position < kTosses; ++position) {
    for (int i = 0; i < 3; ++i) heads[i] += CoinHolds(assumed, /*request_seed=*/1, position, i);
  }
  // Five standard deviations are below 0.016.
  EXPECT_NEAR(heads[0] / double{kTosses}, 0.8, 0.016);
  EXPECT_NEAR(heads[1] / double{kTosses}, 0.25, 0.016);
  EXPECT_NEAR(heads[2] / double{kTosses}, 0.25, 0.016);
}

TEST(CoinTest, AnotherSeedOrRequestIsAnotherRowOfTosses) {
  const AssumedAcceptance one = {.chances = {0.5}, .coin_seed = 1};
  const AssumedAcceptance other = {.chances = {0.5}, .coin_seed = 2};
  int same_seed = 0, same_request = 0;
  for (int position = 0; position < 1000; ++position) {
    same_seed += CoinHolds(one, 1, position, 0) == CoinHolds(other, 1, position, 0);
    same_request += CoinHolds(one, 1, position, 0) == CoinHolds(one, 2, position, 0);
  }
  EXPECT_NEAR(same_seed, 500, 80);
  EXPECT_NEAR(same_request, 500, 80);
}

TEST(CoinTest, CertaintyIsCertain) {
  const AssumedAcceptance assumed = {.chances = {1.0, 0.0}};
  for (int position = 0; position < 1000; ++position) {
    EXPECT_TRUE(CoinHolds(assumed, 1, position, 0));
    EXPECT_FALSE(CoinHolds(assumed, 1, position, 1));
  }
}

// One sequence that has said two of the five tokens that are known, and drew the third just now.
std::vector<int32_t> GuessesFor(const AssumedAcceptance& assumed, uint64_t request_seed) {
  const engine::SamplingParams params = {.seed = request_seed};
  const std::vector<int32_t> prompt = {1, 2}, output = {10, 11}, drawn = {12};
  engine::DraftSlot slot;
  slot.token = 12;
  slot.position = 4;
  slot.max_tokens = 3;
  slot.next.params = &params;
  slot.prompt = prompt;
  slot.output = output;
  slot.drawn = drawn;
  engine::Draft draft;
  const int steps = AssumeAcceptance(assumed, GuessZeros)({&slot, 1}, {&draft, 1});
  EXPECT_EQ(steps, 3);  // the drafter's whole chain ran
  return draft.ids;
}

TEST(AssumeAcceptanceTest, GuessesBecomeWhatComesNextUpToTheFirstTails) {
  AssumedAcceptance assumed = {.chances = {1.0, 0.0}, .vocab = 14};
  assumed.answers[7] = {10, 11, 12, 13, 13, 5};
  // The first is right, the second wrong and inside the vocabulary, the third the drafter's own.
  EXPECT_THAT(GuessesFor(assumed, 7), ElementsAre(13, 0, 0));
  assumed.chances = {1.0};
  EXPECT_THAT(GuessesFor(assumed, 7), ElementsAre(13, 13, 5));
  assumed.answers[7].resize(4);
  EXPECT_THAT(GuessesFor(assumed, 7), ElementsAre(13, 0, 0));  // nothing is known behind the end
}

TEST(AssumeAcceptanceTest, WithoutChancesOrAnAnswerTheDrafterIsBelieved) {
  AssumedAcceptance assumed = {.chances = {1.0}, .vocab = 14};
  assumed.answers[7] = {10, 11, 12, 13, 13, 5};
  EXPECT_THAT(GuessesFor(assumed, 8), ElementsAre(0, 0, 0));
  assumed.chances.clear();
  EXPECT_THAT(GuessesFor(assumed, 7), ElementsAre(0, 0, 0));
}

TEST(AssumeAcceptanceTest, TheTextStaysAndAsManyHoldAsTheCoinSays) {
  // Given what six prompts are answered without drafts.
  constexpr int kTokens = 50, kMostGuesses = 3;
  AssumedAcceptance assumed = {.chances = {0.8, 0.6, 0.4}, .vocab = kRigVocab, .coin_seed = 9};
  GenerationDriver driver(RigEngine(RigRunStep(AssumeAcceptance(assumed, GuessZeros))));
  std::vector<BenchPrompt> prompts;
  GenerationTest test = {.streams = 4, .max_tokens = kTokens, .first_seed = 100};
  for (int i = 0; i < 6; ++i) {
    prompts.push_back({.task = "t", .ids = {2, i, 5 * i + 1}});
    test.prompts.push_back(i);
  }
  const auto plain = driver.Run(prompts, test, {.mode = Speculation::Mode::kOff});
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->drafts.drafted, 0);
  for (size_t i = 0; i < plain->answers.size(); ++i) {
    assumed.answers[test.first_seed + i] = plain->answers[i];
  }
  // When they are answered with drafts of three.
  const auto drafted = driver.Run(
      prompts, test, {.mode = Speculation::Mode::kFixed, .max_draft_tokens = kMostGuesses});
  ASSERT_TRUE(drafted.ok()) << drafted.status();
  // Then every word is the same, and the guesses that held are those of the coin.
  EXPECT_EQ(drafted->answers, plain->answers);
  scheduler::DraftCounts expected;
  for (size_t i = 0; i < prompts.size(); ++i) {
    int said = 1;  // the first token comes with the prompt
    while (said < kTokens) {
      const int guesses = std::min(kMostGuesses, kTokens - said - 1);
      const auto position = static_cast<int64_t>(prompts[i].ids.size()) + said - 1;
      int held = 0;
      while (held < guesses && CoinHolds(assumed, test.first_seed + i, position, held)) ++held;
      ++expected.rounds;
      expected.drafted += guesses;
      expected.accepted += held;
      for (int k = 0; k < held; ++k) ++expected.accepted_at[k];
      said += held + 1;
    }
  }
  EXPECT_EQ(drafted->drafts.rounds, expected.rounds);
  EXPECT_EQ(drafted->drafts.drafted, expected.drafted);
  EXPECT_EQ(drafted->drafts.accepted, expected.accepted);
  EXPECT_EQ(drafted->drafts.accepted_at, expected.accepted_at);
}

}  // namespace
}  // namespace tandem::server
