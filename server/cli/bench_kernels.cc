// `tandem bench kernels`: what each operation of a model's layers makes of this machine's memory.

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/cli/backends.h"
#include "server/cli/bench_answers.h"
#include "server/cli/bench_kernels_cases.h"
#include "server/cli/bench_kernels_report.h"
#include "server/cli/console.h"
#include "server/cli/machine.h"
#include "server/cli/memory_plan.h"
#include "server/cli/model_source.h"
#include "server/cli/verbs.h"
#include "server/config/bench_kernels_options.h"

namespace tandem::server {
namespace {

constexpr uint64_t kAssumedCacheBytes = 32 << 20;  // where the system does not say

}  // namespace

absl::Status BenchKernels(const Settings& settings, const Terminal& terminal,
                          const std::string& command_line) {
  const Console console(terminal);
  const BenchKernelsArguments& arguments = settings.bench_kernels;
  std::string name = arguments.model_shape;
  absl::StatusOr<engine::ModelConfig> config;
  if (!arguments.model.empty()) {
    absl::StatusOr<ModelSource> source = FindTarget({.model = arguments.model});
    if (!source.ok()) return source.status();
    name = source->name;
    config = std::move(source->config);
  } else {
    config = engine::PublishedShape(arguments.model_shape);
    if (!config.ok()) return config.status();
  }
  const absl::StatusOr<std::vector<std::string_view>> families =
      ParseKernelFamilies(arguments.family);
  if (!families.ok()) return families.status();
  for (const std::string_view family : *families) {
    if (arguments.family == "all" || HasFamily(*config, family)) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("--family %s: %s has none; --model-shape %s does", std::string(family),
                        name, family == "experts" ? "26b" : "e2b"));
  }
  absl::StatusOr<Backends> backends = MakeBackends(settings);
  if (!backends.ok()) return backends.status();
  if (!backends->why_cpu.empty()) {
    console.Note("device", "cpu: " + backends->why_cpu, "cpu reason=\"" + backends->why_cpu + "\"");
  }
  KernelBenchPlan plan = {.repetitions = arguments.repetitions,
                          .cache_bytes = LastLevelCacheBytes().value_or(kAssumedCacheBytes),
                          .most_bytes = LookAtMemory().bytes / 2};
  if (backends->device != nullptr) {
    const absl::StatusOr<size_t> free = backends->device->FreeBytes();
    if (!free.ok()) return free.status();
    plan.most_bytes = *free;
  }
  BenchFacts facts = BenchFactsOf(*backends, command_line);
  facts.model = name;
  facts.parameters = CountParameters(*config);
  absl::StatusOr<KernelBench> bench =
      KernelBench::Create(backends->ops(), plan, [&](const KernelResult& result) {
        const double us = Median(result.seconds) * 1e6;
        const double share = CopyShare(result);
        console.Note(
            result.family,
            absl::StrFormat("%-24s %4d rows  %10.2f us  %6.1f GB/s  %.1f %% of copy",
                            result.test.name, result.test.rows, us, BytesPerSecond(result) / 1e9,
                            100 * share),
            absl::StrFormat("name=\"%s\" rows=%d prompt=%d us=%.3f copy_share=%.4f",
                            result.test.name, result.test.rows, result.test.prompt, us, share));
      });
  if (!bench.ok()) return bench.status();
  if (absl::Status s =
          RunKernelFamilies(*config, *families, {.prompt = settings.max_step_rows}, *bench);
      !s.ok()) {
    return s;
  }
  std::fputs(KernelsReport(facts, bench->results(), bench->left_out(), arguments.output).c_str(),
             stdout);
  return absl::OkStatus();
}

}  // namespace tandem::server
