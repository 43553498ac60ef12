// `tandem bench kv-quality`: how far KV formats move what a model says.

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/cli/bench_answers.h"
#include "server/cli/bench_compare.h"
#include "server/cli/console.h"
#include "server/cli/kv_quality.h"
#include "server/cli/kv_quality_report.h"
#include "server/cli/verbs.h"

namespace tandem::server {
namespace {

constexpr int64_t kNoteEvery = 100;  // texts
constexpr std::string_view kRandom = "random";

// The settings under which the reference answers: its formats, nothing guessed.
Settings ReferenceSettings(const Settings& settings, const KvChoice& reference) {
  Settings changed = settings;
  changed.kv_type = reference.name;
  changed.kv_type_k.clear();
  changed.kv_type_v.clear();
  changed.kv_sliding_type.clear();
  changed.kv_protect_first = reference.formats.protect_first;
  changed.kv_protect_last = reference.formats.protect_last;
  changed.kv_protect_type = std::string(kvcache::KvFormatName(reference.formats.protect_format));
  changed.draft_model = "none";
  changed.spec_mode = "off";
  return changed;
}

absl::StatusOr<AnswerPrompts> FindTexts(const std::string& file, const ModelSource& source) {
  if (file == kRandom) return RandomPrompts(source.config.vocab);
  absl::StatusOr<AnswerPrompts> prompts = FindPrompts(file, source);
  if (prompts.ok() || !file.empty()) return prompts;
  return absl::Status(prompts.status().code(),
                      absl::StrFormat("%s; or --prompts random, for a model that has no language",
                                      std::string(prompts.status().message())));
}

// So many prompts of each class that they are `requests` together; 0: all.
std::vector<int> ChoosePrompts(const std::vector<BenchPrompt>& prompts, int requests) {
  const std::vector<std::string> tasks = TasksOf(prompts);
  std::vector<int> chosen;
  for (const std::string& task : tasks) {
    int count = static_cast<int>(
        std::count_if(prompts.begin(), prompts.end(),
                      [&](const BenchPrompt& prompt) { return prompt.task == task; }));
    if (requests > 0) count = std::min(count, (requests - 1) / static_cast<int>(tasks.size()) + 1);
    const std::vector<int> picked = PickPrompts(prompts, task, count);
    chosen.insert(chosen.end(), picked.begin(), picked.end());
  }
  return chosen;
}

// The prompt with its answer, which is scored from the row on that draws its first token, up to the
// row that draws its end.
ScoredText TextOf(const BenchPrompt& prompt, std::vector<int32_t> answer,
                  const std::vector<int32_t>& eos_ids) {
  if (!answer.empty() &&
      std::find(eos_ids.begin(), eos_ids.end(), answer.back()) != eos_ids.end()) {
    answer.pop_back();
  }
  ScoredText text = {.task = prompt.task,
                     .ids = prompt.ids,
                     .first_scored = static_cast<int>(prompt.ids.size()) - 1};
  text.ids.insert(text.ids.end(), answer.begin(), answer.end());
  return text;
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  if (file.write(text.data(), static_cast<std::streamsize>(text.size())) && file.flush()) {
    return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrFormat("--plot: cannot write the file %s", path));
}

}  // namespace

absl::Status BenchKvQuality(const Settings& settings, const Terminal& terminal,
                            const std::string& command_line) {
  const Console console(terminal);
  const BenchKvQualityArguments& arguments = settings.bench_kv_quality;
  const absl::StatusOr<KvChoice> reference = ParseKvChoice(arguments.reference);
  if (!reference.ok()) return reference.status();
  const absl::StatusOr<std::vector<KvChoice>> formats = ParseKvChoices(arguments.formats);
  if (!formats.ok()) return formats.status();
  const Settings changed = ReferenceSettings(settings, *reference);
  const absl::StatusOr<ModelSource> source = FindModel(changed);
  if (!source.ok()) return source.status();
  const absl::StatusOr<AnswerPrompts> prompts = FindTexts(arguments.prompts, *source);
  if (!prompts.ok()) return prompts.status();
  const AnswerLoad load = {.streams = arguments.streams, .max_tokens = arguments.generate};
  absl::StatusOr<AnswerBench> bench =
      StartAnswers(changed, *source, *prompts, load, nullptr, console, command_line);
  if (!bench.ok()) return bench.status();

  QualityPlan plan = {
      .reference = *reference, .formats = *formats, .block_tokens = settings.block_tokens};
  {
    GenerationDriver driver(bench->generation);
    const GenerationTest test = {.task = kAllTasks,
                                 .streams = arguments.streams,
                                 .max_tokens = arguments.generate,
                                 .prompts = ChoosePrompts(prompts->prompts, arguments.requests)};
    absl::StatusOr<GenerationRun> run =
        driver.Run(prompts->prompts, test, {.mode = scheduler::Speculation::Mode::kOff});
    if (!run.ok()) return run.status();
    for (size_t i = 0; i < test.prompts.size(); ++i) {
      plan.texts.push_back(TextOf(prompts->prompts[test.prompts[i]], std::move(run->answers[i]),
                                  bench->generation.eos_ids));
    }
  }
  const absl::StatusOr<QualityResult> result =
      CompareFormats(bench->engine->model, bench->engine->backends.ops(), plan, [&](int64_t done) {
        if (done % kNoteEvery != 0) return;
        console.Note("compared", absl::StrFormat("%d of %d texts", done, plan.texts.size()),
                     absl::StrFormat("texts=%d of=%d", done, plan.texts.size()));
      });
  if (!result.ok()) return result.status();
  const QualityFacts facts = {.bench = bench->facts,
                              .prompts = prompts->text,
                              .max_tokens = arguments.generate,
                              .block_tokens = settings.block_tokens};
  std::fputs(QualityReport(facts, *result, arguments.output).c_str(), stdout);
  if (arguments.plot.empty()) return absl::OkStatus();
  return WriteFile(arguments.plot, QualityPlot(facts, *result));
}

}  // namespace tandem::server
