// `tandem bench kv`: what KV formats save and what they cost, without a checkpoint.

#include <cstdio>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/cpu/machine_probe.h"
#include "server/cli/bench_answers.h"
#include "server/cli/bench_kv_measure.h"
#include "server/cli/bench_kv_report.h"
#include "server/cli/console.h"
#include "server/cli/format.h"
#include "server/cli/loaded_engine.h"
#include "server/cli/machine.h"
#include "server/cli/verbs.h"
#include "server/cli/version.h"
#include "server/config/device_setting.h"

namespace tandem::server {
namespace {

constexpr uint64_t kAssumedCacheBytes = 32 << 20;  // where the system does not say

struct NamedShape {
  std::string name;
  engine::ModelConfig config;
};

absl::StatusOr<NamedShape> FindShape(const Settings& settings) {
  const BenchKvArguments& arguments = settings.bench_kv;
  if (!arguments.model.empty()) {
    const absl::StatusOr<ModelSource> source = FindTarget({.model = arguments.model});
    if (!source.ok()) return source.status();
    return NamedShape{source->name, source->config};
  }
  absl::StatusOr<engine::ModelConfig> config = engine::PublishedShape(arguments.model_shape);
  if (!config.ok()) return config.status();
  return NamedShape{arguments.model_shape, *std::move(config)};
}

}  // namespace

absl::Status BenchKv(const Settings& settings, const Terminal& terminal,
                     const std::string& command_line) {
  const Console console(terminal);
  const BenchKvArguments& arguments = settings.bench_kv;
  const absl::StatusOr<NamedShape> shape = FindShape(settings);
  if (!shape.ok()) return shape.status();
  const absl::StatusOr<std::vector<KvChoice>> formats = ParseKvChoices(arguments.formats);
  if (!formats.ok()) return formats.status();
  const DeviceSetting::Kind device = DeviceOf(settings).kind;
  if (device != DeviceSetting::Kind::kAuto && device != DeviceSetting::Kind::kCpu) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--device %s: bench kv measures the CPU's attention alone; drop it, or measure a model on "
        "the device with bench model",
        settings.device));
  }
  absl::StatusOr<kernels::CpuBackendPtr> cpu = MakeCpu(settings);
  if (!cpu.ok()) return cpu.status();
  const Backends backends = {.cpu = *std::move(cpu)};
  const kernels::Ops& ops = backends.ops();
  if (absl::Status s = CheckKernels(shape->config, *formats, ops); !s.ok()) return s;

  KvSpeedFacts facts = {.bench = BenchFactsOf(backends, command_line),
                        .block_tokens = settings.block_tokens,
                        .cache_bytes = LastLevelCacheBytes().value_or(kAssumedCacheBytes)};
  facts.bench.model = shape->name;
  facts.bench.parameters = CountParameters(shape->config);
  for (const engine::KvGroup group : {engine::kSliding, engine::kFull}) {
    facts.layers[group] = static_cast<int>(shape->config.KvOwners(group).size());
  }
  absl::StatusOr<std::vector<KvTest>> tests =
      PlanKvTests(shape->config, *formats, arguments.context, arguments.sequences,
                  settings.block_tokens, facts.cache_bytes, LookAtMemory().bytes / 2);
  if (!tests.ok()) return tests.status();
  const absl::StatusOr<KvSpeed> speed = MeasureKv(
      shape->config, ops,
      {.formats = *formats,
       .tests = *std::move(tests),
       .block_tokens = settings.block_tokens,
       .pairs = arguments.repetitions},
      [&] { facts.read_bytes_per_s.push_back(kernels::MeasureReadBandwidth(*backends.cpu)); },
      [&](const KvTest& test, const KvFormatSpeed& format, const PairTimes& times) {
        const char* const layers = test.group == engine::kFull ? "full" : "sliding";
        const double us = Median(times.format) * 1e6;
        const double ratio = Median(times.Ratios());
        console.Note(
            "attention",
            absl::StrFormat("%-7s x%-4d of %-7s %-14s %.1f us/token, %.3f of bf16", layers,
                            test.sequences, CountText(test.visible), format.choice.name, us, ratio),
            absl::StrFormat("layers=%s sequences=%d visible=%d format=%s "
                            "us_per_token=%.2f ratio=%.4f",
                            layers, test.sequences, test.visible, format.choice.name, us, ratio));
      });
  if (!speed.ok()) return speed.status();
  std::fputs(KvSpeedReport(facts, *speed, arguments.output).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace tandem::server
