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
  absl::StatusOr<kernels::CpuBackendPtr> backend = MakeBackend(settings);
  if (!backend.ok()) return backend.status();
  absl::StatusOr<MemoryPlan> plan =
      PlanMemory(source->config, BenchMemory(settings, *source, tests), LookAtMemory());
  if (!plan.ok()) return plan.status();
  DescribeStart(console, settings, *source, kernels::CpuOps(**backend), *plan);

  const BenchFacts facts = BenchFactsOf(settings, *source, *plan, **backend, command_line);
  absl::StatusOr<std::unique_ptr<LoadedEngine>> engine =
      LoadEngine(settings, *source, *plan, *std::move(backend), console, nullptr);
  if (!engine.ok()) return engine.status();
  kernels::CpuBackend& team = *(*engine)->backend;
  const auto probe = [&] {
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
