// Whatever is guessed, by whom, for how many at once and with which blocks and formats, every
// request says what it says alone and without drafts, bit for bit.
//
// T11 (INV-GREEDY), T12 (INV-SEED), T15, T21 and the scheduler's half of T10 and T26 of mtp.md 5.3;
// T16 of turboquant 6.2. The truth is SpeakAlone (plain_text.h): no scheduler, no batch, no draft,
// a row at a time.
//
// A case is one request with a prompt, company, draft lengths, sampling and a KV format of its own.
// Some hundreds run here; TANDEM_FULL=1 runs 10,000 in f32 and bf16, and 45,000 in other formats.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/speculation/world.h"

namespace tandem::testing {
namespace {

class LosslessTest : public ::testing::TestWithParam<StageModel> {};

// T11, T15, T10
TEST_P(LosslessTest, WhateverIsGuessedEveryRequestSaysWhatItSaysAlone) {
  Stage stage(GetParam());
  RunWorlds(stage, FullCount() ? 10'000 / 14 + 1 : 60, GetParam().seed, {});
  // Then there were drafts, good and bad, and sequences that lost their seats on the way.
  for (uint64_t more = 1; stage.totals.preemptions == 0 && more < 20; ++more) {
    RunWorlds(stage, 10, GetParam().seed + 500'000 + 1000 * more, {});
  }
  EXPECT_GT(stage.totals.accepted, 0);
  EXPECT_GT(stage.totals.drafted, stage.totals.accepted);
  EXPECT_GT(stage.totals.preemptions, 0);
  RecordProperty("drafted", std::to_string(stage.totals.drafted));
  RecordProperty("accepted", std::to_string(stage.totals.accepted));
  RecordProperty("preemptions", std::to_string(stage.totals.preemptions));
}

// T11: an oracle is always right, and saves the rounds that it should.
TEST_P(LosslessTest, AnOracleIsAcceptedWholeAndSavesTheRounds) {
  Stage stage(GetParam());
  RunWorlds(stage, FullCount() ? 200 : 12, GetParam().seed + 2000,
            {.guess = Guess::kOracle, .undisturbed = true, .stops = false});
  EXPECT_GT(stage.totals.drafted, 0);
  EXPECT_EQ(stage.totals.accepted, stage.totals.drafted);
  // A prompt gives a token, and a round one more than were accepted.
  EXPECT_EQ(stage.totals.tokens,
            stage.totals.choices + stage.totals.rounds + stage.totals.accepted);
}

// T11: how often it is right on texts that it was fitted to, tests/golden shows.
TEST_P(LosslessTest, TheTargetsOwnAssistantChangesNothing) {
  Stage stage(GetParam());
  if (stage.assistant == nullptr) return;  // a tiny model has none
  RunWorlds(stage, FullCount() ? 200 : 10, GetParam().seed + 7000,
            {.guess = Guess::kAssistant, .undisturbed = true});
  EXPECT_GT(stage.totals.drafted, 0);
  EXPECT_EQ(stage.totals.failed, 0);
}

// T12
TEST_P(LosslessTest, SeededSamplingWithPenaltiesIsThatOfPlainDecoding) {
  Stage stage(GetParam());
  for (const float temperature : {0.3f, 1.0f}) {
    std::vector<Guess> guesses = {Guess::kHalfRight, Guess::kCoupled, Guess::kOracle};
    if (stage.assistant != nullptr) guesses.push_back(Guess::kAssistant);
    for (const Guess guess : guesses) {
      RunWorlds(stage, FullCount() ? 60 : 3, GetParam().seed + 3000 + static_cast<uint64_t>(guess),
                {.guess = guess, .temperature = temperature, .penalties = true});
    }
  }
  EXPECT_GT(stage.totals.accepted, 0);
}

// T21
TEST_P(LosslessTest, LogProbabilitiesOfTokenAndTopFiveAreThoseOfPlainDecoding) {
  Stage stage(GetParam());
  RunWorlds(stage, FullCount() ? 100 : 6, GetParam().seed + 4000,
            {.guess = Guess::kHalfRight, .logprobs = true, .undisturbed = true});
  EXPECT_GT(stage.totals.accepted, 0);
}

// T26
TEST_P(LosslessTest, BrokenProposersEndInPlainDecodingAndAreCounted) {
  Stage stage(GetParam());
  RunWorlds(stage, FullCount() ? 100 : 6, GetParam().seed + 5000,
            {.guess = Guess::kNotFinite, .undisturbed = true});
  EXPECT_GT(stage.totals.failed, 0);
  const int64_t failed = stage.totals.failed;
  RunWorlds(stage, FullCount() ? 100 : 6, GetParam().seed + 6000,
            {.guess = Guess::kOutOfRange, .undisturbed = true});
  EXPECT_GT(stage.totals.failed, failed);
}

std::vector<StageModel> PlainModels() {
  std::vector<StageModel> models;
  for (const char* name :
       {"e2b-like", "e4b-like", "12b-like", "26b-like", "31b-like", "tiny", "tiny-shared"}) {
    for (const char* numbers : {"f32", "bf16"}) {
      models.push_back({name, numbers, 1'000'000 * (models.size() + 1)});
    }
  }
  return models;
}

// Every format with itself and pairs of unlike ones. TANDEM_FULL=1: each with every model.
std::vector<StageModel> FormatModels() {
  constexpr StageModel kSpread[] = {
      {"tiny", "q8", 31'000'000},
      {"tiny-shared", "turbo4", 32'000'000},
      {"tiny", "turbo3/turbo2", 33'000'000},
      {"tiny-shared", "f16/turbo2", 34'000'000},
      {"e2b-like", "q8", 35'000'000},
      {"e4b-like", "turbo4 protect 0+2", 36'000'000},
      {"12b-like", "turbo3", 37'000'000},
      {"26b-like", "q8/turbo4", 38'000'000},
      {"31b-like", "turbo2", 39'000'000},
  };
  if (!FullCount()) return {std::begin(kSpread), std::end(kSpread)};
  std::vector<StageModel> models;
  for (const char* name :
       {"e2b-like", "e4b-like", "12b-like", "26b-like", "31b-like", "tiny", "tiny-shared"}) {
    for (const char* numbers : {"f16", "q8", "turbo4", "turbo3", "turbo2", "q8/turbo4",
                                "turbo4/turbo3", "bf16/turbo4", "turbo2/f16"}) {
      models.push_back({name, numbers, 40'000'000 + 1'000'000 * models.size()});
    }
  }
  return models;
}

INSTANTIATE_TEST_SUITE_P(Models, LosslessTest, ::testing::ValuesIn(PlainModels()),
                         [](const auto& info) { return StageName(info.param); });
INSTANTIATE_TEST_SUITE_P(Weights, LosslessTest,
                         ::testing::Values(StageModel{"tiny-shared", "int8 bf16", 51'000'000},
                                           StageModel{"tiny", "int4 q8", 52'000'000},
                                           StageModel{"e2b-like", "int4 q8", 53'000'000},
                                           StageModel{"26b-like", "int8 turbo4", 54'000'000}),
                         [](const auto& info) { return StageName(info.param); });
INSTANTIATE_TEST_SUITE_P(Formats, LosslessTest, ::testing::ValuesIn(FormatModels()),
                         [](const auto& info) { return StageName(info.param); });

}  // namespace
}  // namespace tandem::testing
