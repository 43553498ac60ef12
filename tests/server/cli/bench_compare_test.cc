#include "server/cli/bench_compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "generation_rig.h"

namespace tandem::server {
namespace {

using scheduler::Speculation;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<BenchPrompt> Prompts() {
  return {{.task = "sum", .ids = {1, 5}},
          {.task = "sum", .ids = {1, 6}},
          {.task = "json", .ids = {1, 7}},
          {.task = "sum", .ids = {1, 8}}};
}

TEST(PickPromptsTest, AClassIsTakenInOrderAndAgain) {
  EXPECT_THAT(TasksOf(Prompts()), ElementsAre("sum", "json"));
  EXPECT_THAT(PickPrompts(Prompts(), "sum", 5), ElementsAre(0, 1, 3, 0, 1));
  EXPECT_THAT(PickPrompts(Prompts(), "json", 2), ElementsAre(2, 2));
}

TEST(PickPromptsTest, AllClassesTakeTurns) {
  EXPECT_THAT(PickPrompts(Prompts(), "", 6), ElementsAre(0, 2, 1, 2, 3, 2));
}

TEST(PlanComparisonTest, EveryNumberOfStreamsHasAllClassesTogetherAndApart) {
  const auto tests = PlanComparison(
      Prompts(), {.streams = {1, 4}, .max_tokens = 9, .least_answers = 6, .answers_per_stream = 2});
  std::vector<std::string> names;
  std::vector<size_t> answers;
  std::vector<uint64_t> seeds;
  for (const GenerationTest& test : tests) {
    names.push_back(test.task + " " + std::to_string(test.streams));
    answers.push_back(test.prompts.size());
    seeds.push_back(test.first_seed);
  }
  EXPECT_THAT(names, ElementsAre("all 1", "sum 1", "json 1", "all 4", "sum 4", "json 4"));
  EXPECT_THAT(answers, ElementsAre(6, 6, 6, 8, 8, 8));
  EXPECT_THAT(seeds, ElementsAre(1, 7, 13, 19, 27, 35));
}

TEST(PlanComparisonTest, ASingleClassIsMeasuredOnce) {
  const std::vector<BenchPrompt> prompts = {{.task = "random", .ids = {1}}};
  const auto tests = PlanComparison(prompts, {.streams = {1}, .max_tokens = 9});
  ASSERT_EQ(tests.size(), 1u);
  EXPECT_EQ(tests[0].task, "random");
}

TEST(GenerationDriverTest, ARunCountsWhatItDid) {
  // Given 5 answers of 10 tokens, 2 at a time, with a drafter that always guesses 0.
  GenerationEngine engine = RigEngine(RigRunStep(GuessZeros));
  engine.draft_step_bytes = [](int slots) { return 1000.0 * slots; };
  GenerationDriver driver(std::move(engine));
  const GenerationTest test = {.streams = 2, .max_tokens = 10, .prompts = {0, 1, 2, 3, 0}};
  int64_t told = 0;
  // When they run with drafts of 2.
  const auto run =
      driver.Run(Prompts(), test, {.mode = Speculation::Mode::kFixed, .max_draft_tokens = 2},
                 [&](const scheduler::StepRecord&) { ++told; });
  // Then tokens, rounds, steps, forwards and bytes of the drafter are those of the run.
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->tokens, 50);
  EXPECT_EQ(run->answers[0], run->answers[4]);
  EXPECT_GT(run->drafts.drafted, 0);
  EXPECT_EQ(run->drafts.rounds, 45 - run->drafts.accepted);
  EXPECT_EQ(run->totals.steps, told);
  EXPECT_GT(run->totals.draft_steps, 0);
  EXPECT_GE(run->totals.draft_bytes, 1000.0 * static_cast<double>(run->totals.draft_steps));
  EXPECT_GT(run->totals.decode_tokens, 0);
  EXPECT_LE(run->totals.decode_tokens, 45);
}

TEST(GenerationDriverTest, AFailureNamesThePrompt) {
  GenerationDriver driver(RigEngine(RigRunStep(GuessZeros)));
  const std::vector<BenchPrompt> prompts = {{.task = "t", .ids = {1}},
                                            {.task = "t", .ids = {kRigVocab}}};
  const GenerationTest test = {.streams = 1, .max_tokens = 3, .prompts = {0, 1}};
  const auto run = driver.Run(prompts, test, {});
  EXPECT_THAT(std::string(run.status().message()), HasSubstr("prompt 2"));
}

TEST(MeasurePairsTest, PairsRunInTurnAndEachHasItsMoment) {
  GenerationDriver a(RigEngine(RigRunStep(GuessZeros))), b(RigEngine(RigRunStep(GuessZeros)));
  const auto tests = PlanComparison(Prompts(), {.streams = {1, 2}, .max_tokens = 4});
  int begun = 0;
  std::vector<std::string> done;
  const auto results = MeasurePairs(
      Prompts(), tests,
      {.driver = &a, .speculation = {.mode = Speculation::Mode::kFixed, .max_draft_tokens = 2}},
      {.driver = &b, .speculation = {.mode = Speculation::Mode::kOff}}, /*pairs=*/2, nullptr,
      [&] { ++begun; },
      [&](const ComparedTest& test) {
        done.push_back(test.test.task + std::to_string(test.test.streams) + "." +
                       std::to_string(test.b.size()));
      });
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ(begun, 2);
  EXPECT_THAT(done, ElementsAre("all1.1", "sum1.1", "json1.1", "all2.1", "sum2.1", "json2.1",
                                "all1.2", "sum1.2", "json1.2", "all2.2", "sum2.2", "json2.2"));
  for (const ComparedTest& test : *results) {
    EXPECT_EQ(test.a.size(), 2u);
    EXPECT_GT(test.a[0].drafts.drafted, 0);
    EXPECT_EQ(test.b[0].drafts.drafted, 0);
    EXPECT_EQ(test.a[0].tokens, test.b[0].tokens);
    EXPECT_TRUE(test.a[0].answers.empty());
  }
}

TEST(MeasurePairsTest, ATextThatDraftsChangeIsAnError) {
  GenerationDriver a(RigEngine(RigRunStep(GuessZeros, /*flawed=*/true)));
  GenerationDriver b(RigEngine(RigRunStep(GuessZeros)));
  const auto tests = PlanComparison(Prompts(), {.streams = {1}, .max_tokens = 8});
  const auto results = MeasurePairs(
      Prompts(), tests,
      {.driver = &a, .speculation = {.mode = Speculation::Mode::kFixed, .max_draft_tokens = 2}},
      {.driver = &b, .speculation = {.mode = Speculation::Mode::kOff}}, 1, nullptr, [] {},
      [](const ComparedTest&) {});
  EXPECT_EQ(results.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(results.status().message()),
              HasSubstr("drafts changed a text: prompt 1"));
}

TEST(MeasurePairsTest, AnAssumedAcceptanceGetsTheAnswersAndANewCoinForEveryPair) {
  AssumedAcceptance assumed = {.chances = {0.5}, .vocab = kRigVocab};
  GenerationDriver a(RigEngine(RigRunStep(AssumeAcceptance(assumed, GuessZeros))));
  GenerationDriver b(RigEngine(RigRunStep(AssumeAcceptance(assumed, GuessZeros))));
  const std::vector<BenchPrompt> prompts = {{.task = "random", .ids = {1, 2}}};
  const auto tests = PlanComparison(prompts, {.streams = {1}, .max_tokens = 200});
  const auto results = MeasurePairs(
      prompts, tests,
      {.driver = &a, .speculation = {.mode = Speculation::Mode::kFixed, .max_draft_tokens = 1}},
      {.driver = &b, .speculation = {.mode = Speculation::Mode::kOff}}, 4, &assumed, [] {},
      [](const ComparedTest&) {});
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_EQ(assumed.answers.count(tests[0].first_seed), 1u);
  EXPECT_EQ(assumed.answers[tests[0].first_seed].size(), 200u);
  std::vector<int64_t> accepted;
  for (const GenerationRun& run : (*results)[0].a) accepted.push_back(run.drafts.accepted);
  EXPECT_THAT(accepted, ::testing::Not(Each(accepted[0])));
}

}  // namespace
}  // namespace tandem::server
