// `tandem bench accept`: what becomes of drafts, and how their length is chosen.

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "scheduler/draft_report.h"
#include "server/cli/bench_accept_report.h"
#include "server/cli/bench_answers.h"
#include "server/cli/bench_compare.h"
#include "server/cli/verbs.h"

namespace tandem::server {

absl::Status BenchAccept(const Settings& settings, const Terminal& terminal,
                         const std::string& command_line) {
  const Console console(terminal);
  const BenchAcceptArguments& arguments = settings.bench_accept;
  const absl::StatusOr<ModelSource> source = FindModel(settings);
  if (!source.ok()) return source.status();
  const scheduler::Speculation speculation = DefaultSpeculation(settings, source->assistant);
  if (speculation.mode == scheduler::Speculation::Mode::kOff) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "nothing would be guessed for %s; give --draft-model DIR, and no --spec-mode off",
        source->name));
  }
  const absl::StatusOr<AnswerPrompts> prompts = FindPrompts(arguments.prompts, *source);
  if (!prompts.ok()) return prompts.status();
  const AnswerLoad load = {.streams = arguments.streams,
                           .max_tokens = arguments.generate,
                           .temperature = arguments.temperature};
  absl::StatusOr<AnswerBench> bench =
      StartAnswers(settings, *source, *prompts, load, nullptr, console, command_line);
  if (!bench.ok()) return bench.status();

  GenerationDriver driver(bench->generation);
  const std::vector<std::string> tasks = TasksOf(prompts->prompts);
  std::vector<AcceptClass> classes;
  for (const std::string& task : tasks) {
    int answers = static_cast<int>(
        std::count_if(prompts->prompts.begin(), prompts->prompts.end(),
                      [&](const BenchPrompt& prompt) { return prompt.task == task; }));
    if (arguments.requests > 0) {
      const int each = (arguments.requests - 1) / static_cast<int>(tasks.size()) + 1;
      answers = std::min(answers, each);
    }
    AcceptClass& result = classes.emplace_back(AcceptClass{.task = task, .answers = answers});
    const GenerationTest test = {.task = task,
                                 .streams = arguments.streams,
                                 .max_tokens = arguments.generate,
                                 .prompts = PickPrompts(prompts->prompts, task, answers),
                                 .first_seed = 1};
    absl::StatusOr<GenerationRun> run =
        driver.Run(prompts->prompts, test, speculation,
                   [&](const scheduler::StepRecord& record) { Count(result.policy, record); });
    if (!run.ok()) return run.status();
    result.run = *std::move(run);
    result.run.answers = {};
    const double rate = AcceptanceRate(result.run.drafts);
    console.Note("prompts",
                 absl::StrFormat("%-10s %d answered: %.1f %% of the guesses held, %.2f tokens per "
                                 "round",
                                 task, answers, rate * 100, TokensPerRound(result.run.drafts)),
                 absl::StrFormat("task=%s answers=%d acceptance=%.4f tokens_per_round=%.3f", task,
                                 answers, rate, TokensPerRound(result.run.drafts)));
  }
  const AcceptFacts facts = {.bench = bench->facts,
                             .setting = SpeculationText(speculation),
                             .prompts = prompts->text,
                             .streams = arguments.streams};
  std::fputs(AcceptReport(facts, classes, arguments.output).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace tandem::server
