#include "server/cli/bench_serve_run.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iterator>

#include "absl/strings/str_format.h"
#include "bench/run_plot.h"
#include "bench/summary.h"
#include "server/cli/format.h"
#include "server/cli/machine.h"
#include "server/cli/version.h"
#include "server/grpc/request_id.h"

namespace tandem::server {
namespace {

constexpr double kLogSeconds = 10.0;
constexpr size_t kLeastPool = 16;

absl::StatusOr<std::vector<std::string>> ReadPrompts(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError("--prompts: cannot read the file " + path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const absl::StatusOr<std::vector<bench::FilePrompt>> prompts = bench::ParsePrompts(text);
  if (!prompts.ok()) {
    return absl::Status(
        prompts.status().code(),
        absl::StrFormat("--prompts %s: %s", path, std::string(prompts.status().message())));
  }
  std::vector<std::string> texts;
  for (const bench::FilePrompt& prompt : *prompts) texts.push_back(prompt.text);
  return texts;
}

// The line of a run that is under way.
class RunProgress {
 public:
  RunProgress(const Console& console, const std::string& label)
      : console_(console), label_(label) {}

  void Show(const bench::LoadProgress& progress) {
    const double rate =
        progress.elapsed_s > 0 ? static_cast<double>(progress.tokens) / progress.elapsed_s : 0.0;
    if (console_.terminal().interactive) {
      const std::string line =
          absl::StrFormat("%-8s%s  %s  %d open  %d done  %d failed  %.0f tok/s", "run", label_,
                          SecondsText(progress.elapsed_s), progress.started - progress.ended,
                          progress.ended - progress.failed, progress.failed, rate);
      std::fprintf(stderr, "\r%s\033[K", line.substr(0, console_.terminal().columns - 1).c_str());
      std::fflush(stderr);
      drawn_ = true;
    } else if (progress.elapsed_s - told_s_ >= kLogSeconds) {
      told_s_ = progress.elapsed_s;
      console_.Note("progress", "",
                    absl::StrFormat("run=\"%s\" seconds=%.0f open=%d done=%d failed=%d "
                                    "tok_per_s=%.1f",
                                    label_, progress.elapsed_s, progress.started - progress.ended,
                                    progress.ended - progress.failed, progress.failed, rate));
    }
  }

  void Clear() {
    if (drawn_) std::fputs("\r\033[K", stderr);
  }

 private:
  const Console& console_;
  const std::string label_;
  double told_s_ = 0.0;
  bool drawn_ = false;
};

absl::Status WriteText(const std::string& option, const std::string& path,
                       const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnavailableError(absl::StrFormat("%s: cannot write the file %s", option, path));
}

}  // namespace

void Interruption::OnSignal() {
  const std::lock_guard lock(mutex_);
  if (happened_ || !measuring_) {
    std::fputs("\n", stderr);
    _exit(kInterruptedExit);
  }
  happened_ = true;
  if (run_ != nullptr) run_->Stop();
}

bool Interruption::happened() {
  const std::lock_guard lock(mutex_);
  return happened_;
}

void Interruption::SetRun(bench::LoadRun* run) {
  const std::lock_guard lock(mutex_);
  measuring_ = true;
  run_ = run;
}

absl::StatusOr<bench::WorkloadSpec> MakeWorkload(const BenchServeArguments& arguments,
                                                 const bench::ServedModelFacts& model,
                                                 bench::GrpcClient& client) {
  bench::WorkloadSpec spec;
  spec.prompt_tokens = bench::ParseLengths(arguments.prompt_tokens).value();
  spec.output_tokens = bench::ParseLengths(arguments.output_tokens).value();
  spec.shared_prefix = arguments.shared_prefix;
  spec.tenants = arguments.tenants;
  spec.seed = arguments.seed;
  spec.bos_id = model.bos_id;
  spec.context_length = model.context_length;
  if (!arguments.prompts.empty()) {
    absl::StatusOr<std::vector<std::string>> texts = ReadPrompts(arguments.prompts);
    if (!texts.ok()) return texts.status();
    spec.texts = *std::move(texts);
  } else {
    absl::StatusOr<std::vector<int32_t>> ids = client.Tokenize(bench::PoolText(arguments.seed));
    if (!ids.ok()) return ids.status();
    spec.token_pool = bench::PoolOf(*std::move(ids));
    if (spec.token_pool.size() < kLeastPool) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "the model's tokenizer knows only %d different tokens of plain text; give prompts with "
          "--prompts FILE",
          spec.token_pool.size()));
    }
  }
  if (absl::Status s = bench::CheckFits(spec); !s.ok()) return s;
  return spec;
}

std::string WorkloadText(const BenchServeArguments& arguments) {
  std::string text = arguments.prompts.empty()
                         ? absl::StrFormat("prompts of %s tokens", arguments.prompt_tokens)
                         : absl::StrFormat("prompts of %s", arguments.prompts);
  if (arguments.shared_prefix > 0) {
    text += absl::StrFormat(", the first %d shared", arguments.shared_prefix);
  }
  text += absl::StrFormat(", answers of %s%s", arguments.output_tokens,
                          arguments.keep_eos ? " at most" : "");
  if (arguments.temperature.has_value()) {
    text += absl::StrFormat(", temperature %g", *arguments.temperature);
  }
  text += absl::StrFormat(", seed %d", arguments.seed);
  if (arguments.unary) text += ", unary";
  if (arguments.connections > 1) text += absl::StrFormat(", %d connections", arguments.connections);
  return text;
}

bench::CallOptions CallOptionsOf(const BenchServeArguments& arguments, int stream_interval_tokens) {
  return {.unary = arguments.unary,
          .keep_eos = arguments.keep_eos,
          .temperature = arguments.temperature,
          .priority = arguments.priority,
          .deadline_ms = arguments.deadline_ms,
          .stream_interval_tokens = stream_interval_tokens,
          .cache_salt = NewRequestId()};  // the same prompts of an earlier run count for nothing
}

bench::ReportFacts MakeFacts(const std::string& command_line, const std::string& address,
                             const bench::ServerFacts& server, const bench::ServedModelFacts& model,
                             const BenchServeArguments& arguments) {
  return {.command_line = command_line,
          .version = std::string(Version()),
          .commit = std::string(GitCommit()),
          .date = UtcDate(),
          .cpu = CpuModelName(),
          .address = address,
          .server_version = server.version,
          .server_commit = server.commit,
          .server_build = server.build,
          .device = server.device,
          .model = model.name,
          .model_revision = model.revision,
          .weight_format = model.weight_format,
          .kv_format = model.kv_format,
          .workload = WorkloadText(arguments)};
}

bench::RunResult RunLoad(const Console& console, Interruption& interruption,
                         const std::string& label, const bench::LoadSpec& load,
                         const std::function<bench::PlannedRequest(int)>& plan,
                         const bench::StartCall& start) {
  bench::LoadRun run(load, plan, start);
  interruption.SetRun(&run);
  RunProgress progress(console, label);
  bench::RunResult result = run.Run([&](const bench::LoadProgress& now) { progress.Show(now); });
  interruption.SetRun(nullptr);
  result.label = label;
  progress.Clear();
  return result;
}

void SayResult(const Console& console, const bench::RunResult& run) {
  const bench::Figures figures = Summarize(run, {});
  console.Note(
      "run",
      absl::StrFormat("%s: %d done, %d failed in %s, %.1f tok/s", run.label, figures.ok,
                      figures.failed, SecondsText(figures.duration_s), figures.output_tokens_per_s),
      absl::StrFormat("label=\"%s\" done=%d failed=%d seconds=%.2f tok_per_s=%.1f", run.label,
                      figures.ok, figures.failed, figures.duration_s, figures.output_tokens_per_s));
}

absl::Status WriteFiles(const BenchServeArguments& arguments, const bench::Report& report,
                        const bench::Report& drawn) {
  if (!arguments.save.empty()) {
    if (absl::Status s = WriteText("--save", arguments.save, bench::SavedText(report)); !s.ok()) {
      return s;
    }
  }
  if (arguments.plot.empty()) return absl::OkStatus();
  return WriteText("--plot", arguments.plot, bench::PlotSvg(drawn));
}

absl::Status CheckFiles(const BenchServeArguments& arguments) {
  for (const auto& [option, path] :
       {std::pair("--save", arguments.save), std::pair("--plot", arguments.plot)}) {
    if (path.empty()) continue;
    std::ofstream file(path, std::ios::binary | std::ios::app);
    if (!file) {
      return absl::UnavailableError(absl::StrFormat("%s: cannot write the file %s", option, path));
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::server
