#include "server/cli/bench_model_compare.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/cpu/machine_probe.h"
#include "server/cli/assumed_acceptance.h"
#include "server/cli/bench_answers.h"
#include "server/cli/bench_compare_report.h"
#include "server/config/bench_model_options.h"

namespace tandem::server {
namespace {

constexpr int kVerifySteps = 16;
constexpr int kMostVerifyRows = 5;
// Weights that each of these tests reads at least: the steps of a small model are short against the
// moods of a machine.
constexpr uint64_t kVerifyBytes = 5'000'000'000;
constexpr int kLeastAnswers = 32;     // of a run with prompts of a file
constexpr int kAnswersPerStream = 4;  // likewise

struct Side {
  Settings settings;
  ModelSource source;
  scheduler::Speculation speculation;
};

absl::StatusOr<Side> MakeSide(const Settings& settings) {
  absl::StatusOr<ModelSource> source = FindModel(settings);
  if (!source.ok()) return source.status();
  Side side = {.settings = settings, .source = *std::move(source)};
  side.speculation = DefaultSpeculation(settings, side.source.assistant);
  return side;
}

// A server that never drafts has room for none.
GenerationEngine EngineOf(const GenerationEngine& engine, const Side& side) {
  GenerationEngine own = engine;
  own.config.max_draft_tokens = side.speculation.max_draft_tokens;
  return own;
}

void SayPair(const Console& console, const ComparedTest& test, int pairs) {
  const int pair = static_cast<int>(test.a.size());
  const double a = test.a.back().tokens_per_s();
  const double b = test.b.back().tokens_per_s();
  console.Note("pair",
               absl::StrFormat("%-10s x%-3d %d of %d: %.1f against %.1f tok/s, %.3f",
                               test.test.task, test.test.streams, pair, pairs, a, b, a / b),
               absl::StrFormat("task=%s streams=%d pair=%d a_tok_per_s=%.2f b_tok_per_s=%.2f",
                               test.test.task, test.test.streams, pair, a, b));
}

}  // namespace

absl::Status BenchModelPairs(const Settings& settings, const Console& console,
                             const std::string& command_line) {
  const BenchArguments& arguments = settings.bench;
  const absl::StatusOr<Settings> changed = WithSetting(settings, arguments.compare);
  if (!changed.ok()) return changed.status();
  const absl::StatusOr<Side> a = MakeSide(settings);
  if (!a.ok()) return a.status();
  const absl::StatusOr<Side> b = MakeSide(*changed);
  if (!b.ok()) return b.status();
  // The engine that both share has the longer drafts of the two.
  const Side& drafting =
      b->speculation.max_draft_tokens > a->speculation.max_draft_tokens ? *b : *a;
  if (drafting.speculation.max_draft_tokens == 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--compare: %s has no assistant, so that neither side would guess anything; give "
        "--draft-model DIR",
        drafting.source.name));
  }
  const absl::StatusOr<AnswerPrompts> prompts = FindPrompts(arguments.prompts, drafting.source);
  if (!prompts.ok()) return prompts.status();

  AssumedAcceptance assumed = {.vocab = drafting.source.config.vocab};
  if (!arguments.assume_acceptance.empty()) {
    absl::StatusOr<std::vector<double>> chances = ParseChances(arguments.assume_acceptance);
    if (!chances.ok()) return chances.status();
    assumed.chances = *std::move(chances);
  }
  const WrapPropose wrap = [&assumed](engine::Propose drafter) {
    return AssumeAcceptance(assumed, std::move(drafter));
  };
  const std::vector<int> streams = StreamsOf(arguments);
  const AnswerLoad load = {.streams = *std::max_element(streams.begin(), streams.end()),
                           .max_tokens = arguments.generate[0],
                           .temperature = arguments.temperature};
  const absl::StatusOr<AnswerBench> bench =
      StartAnswers(drafting.settings, drafting.source, *prompts, load,
                   assumed.chances.empty() ? nullptr : wrap, console, command_line);
  if (!bench.ok()) return bench.status();

  GenerationDriver driver_a(EngineOf(bench->generation, *a));
  GenerationDriver driver_b(EngineOf(bench->generation, *b));
  const std::vector<GenerationTest> tests = PlanComparison(
      prompts->prompts, {.streams = streams,
                         .max_tokens = load.max_tokens,
                         .least_answers = prompts->natural ? kLeastAnswers : 1,
                         .answers_per_stream = prompts->natural ? kAnswersPerStream : 1});
  CompareYardsticks yardsticks;
  const absl::StatusOr<std::vector<ComparedTest>> results = MeasurePairs(
      prompts->prompts, tests, {.driver = &driver_a, .speculation = a->speculation},
      {.driver = &driver_b, .speculation = b->speculation}, arguments.repetitions,
      assumed.chances.empty() ? nullptr : &assumed,
      [&] {
        const Backends& backends = bench->engine->backends;
        yardsticks.read_bytes_per_s.push_back(  // the host's; 0: not measured
            backends.device != nullptr ? 0.0 : kernels::MeasureReadBandwidth(*backends.cpu));
      },
      [&](const ComparedTest& test) { SayPair(console, test, arguments.repetitions); });
  if (!results.ok()) return results.status();
  const auto least = static_cast<int>(kVerifyBytes / (bench->facts.weight_bytes * kVerifySteps));
  absl::StatusOr<std::vector<BenchResult>> verification = MeasureTests(
      *bench->engine, PlanVerification(kVerifySteps, kMostVerifyRows),
      std::max(arguments.repetitions, least), settings.max_step_rows, [] { return Yardstick{}; },
      [](const BenchResult&) {});
  if (!verification.ok()) return verification.status();
  yardsticks.verification = *std::move(verification);
  const CompareFacts facts = {.bench = bench->facts,
                              .a = SpeculationText(a->speculation),
                              .b = SpeculationText(b->speculation),
                              .prompts = prompts->text,
                              .max_tokens = load.max_tokens,
                              .chances = assumed.chances};
  std::fputs(PairsReport(facts, *results, yardsticks, arguments.output).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace tandem::server
