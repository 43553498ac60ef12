// `tandem bench serve`: a server under load, as its clients see it.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "bench/compare.h"
#include "server/cli/bench_serve_own.h"
#include "server/cli/bench_serve_report.h"
#include "server/cli/bench_serve_run.h"
#include "server/cli/signals.h"
#include "server/cli/verbs.h"

namespace tandem::server {
namespace {

constexpr int kDefaultStreams = 16;
constexpr double kDefaultSeconds = 10.0;
constexpr std::chrono::milliseconds kLoadingPoll{500};

absl::StatusOr<bench::Report> ReadReport(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError("--compare: cannot read the file " + path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  absl::StatusOr<bench::Report> report = bench::ParseSaved(text);
  if (report.ok()) return report;
  return absl::Status(
      report.status().code(),
      absl::StrFormat("--compare %s: %s", path, std::string(report.status().message())));
}

absl::Status CompareFiles(const BenchServeArguments& arguments) {
  const std::string& a_path = arguments.compare[0];
  const std::string& b_path = arguments.compare[1];
  const absl::StatusOr<bench::Report> a = ReadReport(a_path);
  if (!a.ok()) return a.status();
  const absl::StatusOr<bench::Report> b = ReadReport(b_path);
  if (!b.ok()) return b.status();
  const absl::StatusOr<std::vector<bench::ComparedRun>> runs = bench::Compare(*a, *b);
  if (!runs.ok()) return runs.status();
  std::fputs(CompareReport(a_path, b_path, *runs, arguments.output).c_str(), stdout);
  return absl::OkStatus();
}

// Waits while the model loads; a signal ends the process meanwhile.
absl::StatusOr<bench::ServerFacts> ReadyServer(const Console& console, const std::string& address,
                                               bench::GrpcClient& client) {
  bool told = false;
  for (;;) {
    absl::StatusOr<bench::ServerFacts> info = client.GetServerInfo();
    if (!info.ok() || info->state == "ready") return info;
    if (info->state != "loading") {
      return absl::UnavailableError(
          absl::StrFormat("the server at %s is %s and takes no requests; start another with "
                          "`tandem serve`",
                          address, info->state));
    }
    if (!told) console.Note("wait", "the server is loading its model", "reason=loading");
    told = true;
    std::this_thread::sleep_for(kLoadingPoll);
  }
}

// The levels of the sweep, or the one open loop.
std::vector<bench::LoadSpec> LoadsOf(const BenchServeArguments& arguments) {
  bench::LoadSpec load;
  load.retries = arguments.retry;
  load.requests = arguments.requests.value_or(0);
  if (!arguments.requests.has_value()) {
    load.duration_us = static_cast<int64_t>(arguments.duration.value_or(kDefaultSeconds) * 1e6);
  }
  if (arguments.rate.has_value()) {
    load.arrivals.rate = *arguments.rate;
    load.arrivals.burst_size = arguments.burst_size;
    load.arrivals.pattern = arguments.arrivals == "constant"
                                ? bench::ArrivalSpec::Pattern::kConstant
                            : arguments.arrivals == "burst" ? bench::ArrivalSpec::Pattern::kBurst
                                                            : bench::ArrivalSpec::Pattern::kPoisson;
    load.arrival_seed = arguments.seed;
    return {load};
  }
  std::vector<bench::LoadSpec> loads;
  const std::vector<int> levels =
      arguments.concurrency.empty() ? std::vector<int>{kDefaultStreams} : arguments.concurrency;
  for (const int streams : levels) {
    load.concurrency = streams;
    loads.push_back(load);
  }
  return loads;
}

std::string LabelOf(const BenchServeArguments& arguments, const bench::LoadSpec& load) {
  if (load.concurrency == 0) {
    return absl::StrFormat("%g req/s %s", load.arrivals.rate, arguments.arrivals);
  }
  const char* const unit = arguments.unary ? "call" : "stream";
  return absl::StrFormat("%d %s%s", load.concurrency, unit, load.concurrency == 1 ? "" : "s");
}

absl::StatusOr<int> BenchConnected(const BenchServeArguments& arguments, const Console& console,
                                   Interruption& interruption, const std::string& command_line) {
  bench::GrpcClient client(arguments.connect, arguments.connections);
  const absl::StatusOr<bench::ServerFacts> server = ReadyServer(console, arguments.connect, client);
  if (!server.ok()) return server.status();
  const absl::StatusOr<bench::ServedModelFacts> model = client.GetModel();
  if (!model.ok()) return model.status();
  const absl::StatusOr<bench::WorkloadSpec> workload = MakeWorkload(arguments, *model, client);
  if (!workload.ok()) return workload.status();

  const std::vector<int>& interval = arguments.stream_interval_tokens;
  const bench::CallOptions options = CallOptionsOf(arguments, interval.empty() ? 0 : interval[0]);
  const auto start = [&](const bench::PlannedRequest& planned, bench::CallSink sink) {
    return client.Start(planned, options, std::move(sink));
  };
  bench::Report report;
  report.facts = MakeFacts(command_line, arguments.connect, *server, *model, arguments);
  report.goodput = bench::ParseGoodput(arguments.goodput).value();
  uint64_t run_number = 0;
  const auto plan = [&](int index) { return PlanRequest(*workload, run_number, index); };
  for (const bench::LoadSpec& load : LoadsOf(arguments)) {
    const std::string label = LabelOf(arguments, load);
    bench::LoadSpec warm_up;
    warm_up.concurrency = std::max(load.concurrency, 1);
    warm_up.requests = arguments.warmup.value_or(warm_up.concurrency);
    if (warm_up.requests > 0) {
      SayResult(console,
                RunLoad(console, interruption, "warm-up for " + label, warm_up, plan, start));
      ++run_number;
    }
    if (interruption.happened()) break;
    report.runs.push_back(RunLoad(console, interruption, label, load, plan, start));
    SayResult(console, report.runs.back());
    ++run_number;
    if (interruption.happened() || report.runs.back().server_lost) break;
  }
  if (report.runs.empty()) return kInterruptedExit;
  std::fputs(BenchServeReport(report, arguments.output).c_str(), stdout);
  if (absl::Status s = WriteFiles(arguments, report, report); !s.ok()) return s;
  if (interruption.happened()) return kInterruptedExit;
  if (report.runs.back().server_lost) return 1;
  const bool succeeded = std::any_of(report.runs.begin(), report.runs.end(),
                                     [](const auto& run) { return Summarize(run, {}).ok > 0; });
  return succeeded ? 0 : 1;
}

}  // namespace

absl::StatusOr<int> BenchServe(const Settings& settings, const Terminal& terminal,
                               const std::string& command_line) {
  const BenchServeArguments& arguments = settings.bench_serve;
  if (!arguments.compare.empty()) {
    if (absl::Status s = CompareFiles(arguments); !s.ok()) return s;
    return 0;
  }
  BlockStopSignals();
  Interruption interruption;
  const SignalWatcher watcher([&](int) { interruption.OnSignal(); });
  const Console console(terminal);
  if (absl::Status s = CheckFiles(arguments); !s.ok()) return s;
  if (arguments.connect.empty()) {
    return BenchOwnServer(settings, console, interruption, command_line);
  }
  return BenchConnected(arguments, console, interruption, command_line);
}

}  // namespace tandem::server
