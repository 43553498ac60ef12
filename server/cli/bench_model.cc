// `tandem bench model`: the model's speed against the yardsticks of the machine.

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "kernels/cpu/machine_probe.h"
#include "server/cli/bench_answers.h"
#include "server/cli/bench_measure.h"
#include "server/cli/bench_model_compare.h"
#include "server/cli/bench_report.h"
#include "server/cli/console.h"
#include "server/cli/loaded_engine.h"
#include "server/cli/verbs.h"
#include "server/config/weight_setting.h"

namespace tandem::server {
namespace {

// The KV blocks that the largest test needs.
MemoryRequest BenchMemory(const Settings& settings, const ModelSource& source,
                          const std::vector<BenchTest>& tests) {
  int streams = 1;
  int tokens = 1;
  for (const BenchTest& test : tests) {
    streams = std::max(streams, test.streams);
    tokens = std::max({tokens, test.prompt_tokens, test.generate_tokens});
  }
  MemoryRequest request = MemoryRequestOf(settings, source, streams);
  request.max_context = tokens;
  request.context_option = "--prompt or --generate";
  return request;
}

}  // namespace

absl::Status BenchModel(const Settings& settings, const Terminal& terminal,
                        const std::string& command_line) {
  const Console console(terminal);
  if (!settings.bench.compare.empty()) return BenchModelPairs(settings, console, command_line);
  const std::vector<BenchTest> tests = PlanTests(settings.bench);
  for (const BenchTest& test : tests) {
    if (test.streams > settings.max_step_rows) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--streams %d is above --max-step-rows %d; every stream takes a row of a "
                          "step",
                          test.streams, settings.max_step_rows));
    }
  }
  absl::StatusOr<ModelSource> source = FindModel(settings);
  if (!source.ok()) return source.status();
  absl::StatusOr<Backends> backends = MakeBackends(settings);
  if (!backends.ok()) return backends.status();
  absl::StatusOr<MemoryPlan> plan =
      PlanMemoryOf(*backends, source->config, BenchMemory(settings, *source, tests));
  if (!plan.ok()) return plan.status();
  DescribeStart(console, settings, *source, *backends, *plan);

  const BenchFacts facts = BenchFactsOf(settings, *source, *plan, *backends, command_line);
  absl::StatusOr<std::unique_ptr<LoadedEngine>> engine =
      LoadEngine(settings, *source, *plan, *std::move(backends), console, nullptr);
  if (!engine.ok()) return engine.status();
  kernels::CpuBackend& team = *(*engine)->backends.cpu;
  const auto probe = [&] {
    if ((*engine)->backends.device != nullptr) return Yardstick{};  // those below are the host's
    return Yardstick{
        .read_bytes_per_s = kernels::MeasureReadBandwidth(team),
        .multiply_adds_per_s = kernels::MeasureMultiplyAddPeak(team, WeightsOf(settings))};
  };
  const auto done = [&](const BenchResult& result) {
    const int run = static_cast<int>(result.seconds.size());
    const double rate = result.test.tokens() / result.seconds.back();
    console.Note(
        "test",
        absl::StrFormat("%-10s run %d of %d: %.2f tok/s", TestName(result.test), run,
                        settings.bench.repetitions, rate),
        absl::StrFormat("name=\"%s\" run=%d tok_per_s=%.3f", TestName(result.test), run, rate));
  };
  const absl::StatusOr<std::vector<BenchResult>> results = MeasureTests(
      **engine, tests, settings.bench.repetitions, settings.max_step_rows, probe, done);
  if (!results.ok()) return results.status();
  std::fputs(BenchReport(facts, *results, settings.bench.output).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace tandem::server
