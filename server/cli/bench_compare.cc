#include "server/cli/bench_compare.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"

namespace tandem::server {
namespace {

using Answers = std::vector<std::vector<int32_t>>;

constexpr scheduler::Speculation kOff = {.mode = scheduler::Speculation::Mode::kOff};

absl::Status CheckSame(const Answers& expected, const Answers& answers,
                       const GenerationTest& test) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (answers[i] == expected[i]) continue;
    const auto [is, was] =
        std::mismatch(answers[i].begin(), answers[i].end(), expected[i].begin(), expected[i].end());
    return absl::InternalError(absl::StrFormat(
        "drafts changed a text: prompt %d (%s, %d streams) is answered differently from token %d "
        "on than without drafts; this is a bug, please report it with the command",
        test.prompts[i] + 1, test.task, test.streams, is - answers[i].begin() + 1));
  }
  return absl::OkStatus();
}

// One run whose answers are compared and dropped.
absl::StatusOr<GenerationRun> RunSide(const ComparedSide& side,
                                      std::span<const BenchPrompt> prompts,
                                      const GenerationTest& test, const Answers& expected) {
  absl::StatusOr<GenerationRun> run = side.driver->Run(prompts, test, side.speculation);
  if (!run.ok()) return run;
  if (absl::Status s = CheckSame(expected, run->answers, test); !s.ok()) return s;
  run->answers = {};
  return run;
}

bool Drafts(const ComparedSide& side) {
  return side.speculation.mode != scheduler::Speculation::Mode::kOff;
}

}  // namespace

std::vector<std::string> TasksOf(std::span<const BenchPrompt> prompts) {
  std::vector<std::string> tasks;
  for (const BenchPrompt& prompt : prompts) {
    if (std::find(tasks.begin(), tasks.end(), prompt.task) == tasks.end()) {
      tasks.push_back(prompt.task);
    }
  }
  return tasks;
}

std::vector<int> PickPrompts(std::span<const BenchPrompt> prompts, const std::string& task,
                             int count) {
  std::vector<std::vector<int>> classes;
  for (const std::string& each : task.empty() ? TasksOf(prompts) : std::vector{task}) {
    std::vector<int>& of_class = classes.emplace_back();
    for (size_t i = 0; i < prompts.size(); ++i) {
      if (prompts[i].task == each) of_class.push_back(static_cast<int>(i));
    }
  }
  std::vector<int> picked;
  for (int i = 0; i < count; ++i) {
    const std::vector<int>& of_class = classes[i % classes.size()];
    picked.push_back(of_class[i / classes.size() % of_class.size()]);
  }
  return picked;
}

std::vector<GenerationTest> PlanComparison(std::span<const BenchPrompt> prompts,
                                           const ComparisonPlan& plan) {
  std::vector<std::string> tasks = TasksOf(prompts);
  if (tasks.size() > 1) tasks.insert(tasks.begin(), kAllTasks);
  std::vector<GenerationTest> tests;
  uint64_t seed = 1;
  for (const int streams : plan.streams) {
    const int answers = std::max(plan.least_answers, plan.answers_per_stream * streams);
    for (const std::string& task : tasks) {
      const bool all = tasks.size() > 1 && &task == &tasks.front();
      tests.push_back({.task = task,
                       .streams = streams,
                       .max_tokens = plan.max_tokens,
                       .prompts = PickPrompts(prompts, all ? "" : task, answers),
                       .first_seed = seed});
      seed += answers;
    }
  }
  return tests;
}

absl::StatusOr<std::vector<ComparedTest>> MeasurePairs(
    std::span<const BenchPrompt> prompts, std::span<const GenerationTest> tests,
    const ComparedSide& a, const ComparedSide& b, int pairs, AssumedAcceptance* assumed,
    const std::function<void()>& begin, const std::function<void(const ComparedTest&)>& done) {
  std::vector<ComparedTest> results;
  std::vector<Answers> expected;
  for (const GenerationTest& test : tests) {
    absl::StatusOr<GenerationRun> plain = b.driver->Run(prompts, test, kOff);
    if (!plain.ok()) return plain.status();
    expected.push_back(std::move(plain->answers));
    if (assumed != nullptr) {
      for (size_t i = 0; i < expected.back().size(); ++i) {
        assumed->answers[test.first_seed + i] = expected.back()[i];
      }
    }
    for (const ComparedSide* side : {&a, &b}) {
      if (!Drafts(*side)) continue;
      const auto run = RunSide(*side, prompts, test, expected.back());
      if (!run.ok()) return run.status();
    }
    results.push_back({.test = test});
  }
  for (int pair = 0; pair < pairs; ++pair) {
    begin();
    if (assumed != nullptr) assumed->coin_seed = pair + 1;
    for (size_t i = 0; i < results.size(); ++i) {
      ComparedTest& result = results[i];
      result.a.emplace_back();
      result.b.emplace_back();
      // The first run of a test finds the caches of the one before, so it does not count.
      if (const auto first = RunSide(b, prompts, result.test, expected[i]); !first.ok()) {
        return first.status();
      }
      for (const bool is_a : {true, false, false, true}) {
        const absl::StatusOr<GenerationRun> run =
            RunSide(is_a ? a : b, prompts, result.test, expected[i]);
        if (!run.ok()) return run.status();
        (is_a ? result.a : result.b).back() += *run;
      }
      done(result);
    }
  }
  return results;
}

}  // namespace tandem::server
