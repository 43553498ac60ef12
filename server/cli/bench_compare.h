// Two ways to speculate, measured on one loaded engine in turn: a pair is A, B, B, A.
//
// A machine's speed drifts, so only the ratios of pairs are held against a figure. Both sides have
// a scheduler of their own, as two servers would: neither learns from the other's steps. Every
// answer of every run must be the same.
//
// Not here  running the answers (bench_generation.h), the report (bench_compare_report.h).
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/cli/assumed_acceptance.h"
#include "server/cli/bench_generation.h"

namespace tandem::server {

// The classes of prompts in the order in which they first come.
std::vector<std::string> TasksOf(std::span<const BenchPrompt> prompts);

// Which of `prompts` a run answers: `count` of the class, or with "" of all classes in turn; from
// the first on, and again when there are fewer.
std::vector<int> PickPrompts(std::span<const BenchPrompt> prompts, const std::string& task,
                             int count);

struct ComparisonPlan {
  std::vector<int> streams;
  int max_tokens = 0;     // of an answer
  int least_answers = 1;  // of a run
  int answers_per_stream = 1;
};
constexpr const char* kAllTasks = "all";

// For each number of streams a test of all classes together ("all"), then one of each class; with a
// single class that one alone. Seeds of all answers differ.
std::vector<GenerationTest> PlanComparison(std::span<const BenchPrompt> prompts,
                                           const ComparisonPlan& plan);

struct ComparedTest {
  GenerationTest test;
  std::vector<GenerationRun> a, b;  // by pair, its two runs as one, without their answers
};

struct ComparedSide {
  GenerationDriver* driver = nullptr;
  scheduler::Speculation speculation;
};

// Measures `pairs` pairs of each test, the tests in turn. Before, every test runs once without
// drafts, for the answers that all runs must have, and once on each side that drafts, so that its
// policy has seen what comes.
//   assumed  gets the answers, and a new coin for every pair; null: acceptance is what it is
//   begin    called right before each round of pairs: a moment to measure the machine
//   done     called after each pair with what is known of its test by then
//   errors   those of GenerationDriver::Run; Internal when a run answers differently
absl::StatusOr<std::vector<ComparedTest>> MeasurePairs(
    std::span<const BenchPrompt> prompts, std::span<const GenerationTest> tests,
    const ComparedSide& a, const ComparedSide& b, int pairs, AssumedAcceptance* assumed,
    const std::function<void()>& begin, const std::function<void(const ComparedTest&)>& done);

}  // namespace tandem::server
