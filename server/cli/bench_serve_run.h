// What both kinds of `tandem bench serve`, with a server to connect to and with one of its own, do
// alike: the workload, one run with its progress, the files.
#pragma once

#include <functional>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/grpc_client.h"
#include "bench/load_run.h"
#include "bench/report_file.h"
#include "bench/workload.h"
#include "server/cli/console.h"
#include "server/config/settings.h"

namespace tandem::server {

// What a signal does: it ends the run under way and all that would follow, so that the report
// comes; a second one, or one before the first run, ends the process.
class Interruption {
 public:
  void OnSignal();
  bool happened();
  // The run to end; null: none.
  void SetRun(bench::LoadRun* run);

 private:
  std::mutex mutex_;
  bench::LoadRun* run_ = nullptr;
  bool measuring_ = false;  // there is something to report
  bool happened_ = false;
};

constexpr int kInterruptedExit = 130;  // as a shell reports an end by SIGINT

// Asks the server for what the requests are made of.
absl::StatusOr<bench::WorkloadSpec> MakeWorkload(const BenchServeArguments& arguments,
                                                 const bench::ServedModelFacts& model,
                                                 bench::GrpcClient& client);
// One line for the report: "prompts of 128 tokens, answers of 64, seed 0".
std::string WorkloadText(const BenchServeArguments& arguments);

bench::CallOptions CallOptionsOf(const BenchServeArguments& arguments, int stream_interval_tokens);

bench::ReportFacts MakeFacts(const std::string& command_line, const std::string& address,
                             const bench::ServerFacts& server, const bench::ServedModelFacts& model,
                             const BenchServeArguments& arguments);

// Runs with a line of progress that is redrawn on a terminal and repeated every ten seconds
// elsewhere.
bench::RunResult RunLoad(const Console& console, Interruption& interruption,
                         const std::string& label, const bench::LoadSpec& load,
                         const std::function<bench::PlannedRequest(int)>& plan,
                         const bench::StartCall& start);

// What came out, in one line.
void SayResult(const Console& console, const bench::RunResult& run);

// Writes --save (all of `report`) and --plot (of `drawn`), if asked.
//   errors  kUnavailable with the path that can not be written
absl::Status WriteFiles(const BenchServeArguments& arguments, const bench::Report& report,
                        const bench::Report& drawn);
// Finds out whether --save and --plot can be written, before the time is spent.
absl::Status CheckFiles(const BenchServeArguments& arguments);

}  // namespace tandem::server
