#include "server/cli/bench_serve_own.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "scheduler/scheduler.h"
#include "scheduler/status_reason.h"
#include "server/cli/bench_serve_report.h"
#include "server/cli/running_model.h"
#include "server/cli/served_model_facts.h"
#include "server/cli/version.h"
#include "server/generation/generator.h"
#include "server/grpc/grpc_server.h"
#include "server/health/health_state.h"
#include "server/metrics/metrics.h"

namespace tandem::server {
namespace {

constexpr int kDefaultStreams = 64;
constexpr int kRequestsPerStream = 4;

int StreamsOf(const BenchServeArguments& arguments) {
  return arguments.concurrency.empty() ? kDefaultStreams : arguments.concurrency[0];
}

std::vector<int> IntervalsOf(const BenchServeArguments& arguments) {
  if (arguments.stream_interval_tokens.empty()) return {1, 8};
  return arguments.stream_interval_tokens;
}

// 0: no bound.
int MostTokens(const std::string& lengths) {
  const bench::Lengths parsed = bench::ParseLengths(lengths).value();
  return parsed.bounded() ? parsed.most : 0;
}

// KV blocks for all streams at their longest.
MemoryRequest MemoryOf(const Settings& settings, const ModelSource& source) {
  const BenchServeArguments& arguments = settings.bench_serve;
  MemoryRequest request = MemoryRequestOf(settings, source, StreamsOf(arguments));
  request.max_context = 0;
  if (arguments.prompts.empty()) {
    const int prompt = MostTokens(arguments.prompt_tokens);
    const int output = MostTokens(arguments.output_tokens);
    if (prompt > 0 && output > 0) request.max_context = prompt + output + 1;
  }
  request.context_option = "--prompt-tokens or --output-tokens";
  return request;
}

// Engine, scheduler, text layer and gRPC, as `tandem serve` puts them together, on a free port of
// the loopback interface. Ends in the opposite order.
class OwnServer {
 public:
  static absl::StatusOr<std::unique_ptr<OwnServer>> Start(const Settings& settings,
                                                          const Console& console);
  ~OwnServer() {
    if (grpc_ != nullptr) grpc_->Shutdown(0);
    if (running_ != nullptr) running_->Stop();
    metrics_->WatchEngine({});
    health_.WatchEngine({});
  }

  std::string address() const { return absl::StrFormat("127.0.0.1:%d", grpc_->ports()[0]); }
  Generator& generator() { return running_->generator(); }
  const scheduler::Scheduler& scheduler() const { return running_->scheduler(); }
  const ServedModel& model() const { return model_; }

 private:
  absl::Status Load(const Settings& settings, const Console& console);
  absl::Status Serve(const Settings& settings);

  HealthState health_;
  std::unique_ptr<Metrics> metrics_ = std::make_unique<Metrics>("bench");
  std::unique_ptr<RunningModel> running_;
  ServedModel model_;
  std::unique_ptr<GrpcServer> grpc_;
};

absl::Status OwnServer::Load(const Settings& settings, const Console& console) {
  absl::StatusOr<ModelSource> source = FindModel(settings);
  if (!source.ok()) return source.status();
  absl::StatusOr<Tokenizer> tokenizer = LoadTokenizers(settings, *source);
  if (!tokenizer.ok()) return tokenizer.status();
  ModelStart start;
  start.memory = MemoryOf(settings, *source);
  start.scheduler = [&](const scheduler::ModelLimits&) {
    scheduler::SchedulerConfig config;
    config.max_slots = StreamsOf(settings.bench_serve);
    config.max_step_rows = settings.max_step_rows;
    config.max_queued_requests = std::max(config.max_queued_requests, config.max_slots);
    config.prefix_cache = false;  // the same requests are sent both ways
    return config;
  };
  start.describe = true;
  start.observer = {
      .on_step = [this](const scheduler::StepTiming& timing) { metrics_->OnStep(timing); }};
  absl::StatusOr<std::unique_ptr<RunningModel>> running = RunningModel::Start(
      settings, *std::move(source), *std::move(tokenizer), console, std::move(start));
  if (!running.ok()) return running.status();
  running_ = *std::move(running);
  return absl::OkStatus();
}

absl::Status OwnServer::Serve(const Settings& settings) {
  model_ = DescribeModel(settings, running_->source(), running_->tokenizer(), running_->engine(),
                         generator().max_prompt_tokens());
  const EngineProbe probe = {.stats = [this] { return scheduler().stats(); },
                             .now_us = [this] { return scheduler().now_us(); }};
  metrics_->SetModel(FactsOf(model_, running_->engine()));
  metrics_->WatchEngine(probe);
  health_.WatchEngine(probe);
  GrpcConfig grpc_config;
  grpc_config.listen = {"127.0.0.1:0"};
  grpc_config.version = Version();
  grpc_config.git_commit = GitCommit();
  grpc_config.build_flags = BuildFlags();
  absl::StatusOr<std::unique_ptr<GrpcServer>> grpc =
      GrpcServer::Start(grpc_config, health_, *metrics_);
  if (!grpc.ok()) return grpc.status();
  grpc_ = *std::move(grpc);
  grpc_->Serve(model_, {.generator = &generator(),
                        .tokenizer = &running_->tokenizer(),
                        .scheduler = &running_->scheduler()});
  health_.SetPhase(Phase::kReady);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<OwnServer>> OwnServer::Start(const Settings& settings,
                                                            const Console& console) {
  auto server = std::make_unique<OwnServer>();
  if (absl::Status s = server->Load(settings, console); !s.ok()) return s;
  if (absl::Status s = server->Serve(settings); !s.ok()) return s;
  return server;
}

// The same request as GrpcClient would send it, without gRPC in between.
GenerationSpec SpecOf(const bench::PlannedRequest& planned, const bench::CallOptions& options,
                      const ServedModel& model, int64_t now_us) {
  GenerationSpec spec;
  if (planned.text.empty()) {
    spec.prompt = planned.prompt_ids;
  } else {
    spec.prompt = TextPrompt{
        .text = planned.text, .add_bos = !planned.text.starts_with("<bos>"), .parse_special = true};
  }
  scheduler::Request& request = spec.request;
  request.client_id = "bench";
  request.sampling = model.default_sampling;
  if (model.drafter.has_value()) {
    request.speculation = {.mode = model.drafter->default_mode,
                           .max_draft_tokens = model.drafter->max_draft_tokens};
  }
  request.sampling.seed = planned.seed;
  if (options.temperature.has_value()) {
    request.sampling.temperature = static_cast<float>(*options.temperature);
  }
  request.stop.max_tokens = planned.output_tokens;
  if (options.keep_eos) request.stop.eos_ids = model.eos_ids;
  request.priority = options.priority;
  request.tenant = planned.tenant;
  request.arrival_us = now_us;
  spec.stream_interval_tokens = options.stream_interval_tokens;
  return spec;
}

bench::StartCall StartInProcess(OwnServer& server, const bench::CallOptions& options) {
  return [&server, options](const bench::PlannedRequest& planned,
                            bench::CallSink sink) -> bench::CancelCall {
    const auto on_event = [sink = std::move(sink)](OutputEvent event) {
      if (event.kind == OutputEvent::Kind::kDelta && !event.tokens.empty()) {
        sink.on_tokens(static_cast<int>(event.tokens.size()));
      }
      if (event.kind != OutputEvent::Kind::kFinished) return;
      bench::CallEnd end;
      end.code = static_cast<int>(event.status.code());
      end.reason = GetReason(event.status).reason;
      end.message = std::string(event.status.message());
      end.prompt_tokens = event.stats.prompt_tokens;
      end.cached_prompt_tokens = event.stats.cached_prompt_tokens;
      end.output_tokens = event.stats.completion_tokens;
      sink.on_end(std::move(end));
    };
    const Generator::Handle handle = server.generator().Start(
        SpecOf(planned, options, server.model(), server.scheduler().now_us()), on_event);
    return
        [&server, handle] { server.generator().Cancel(handle, scheduler::CancelCause::kAborted); };
  };
}

// The server's line per request would drown what is said about the runs.
class QuietLog {
 public:
  QuietLog() : level_(spdlog::get_level()) { spdlog::set_level(spdlog::level::warn); }
  ~QuietLog() { spdlog::set_level(level_); }
  QuietLog(const QuietLog&) = delete;
  QuietLog& operator=(const QuietLog&) = delete;

 private:
  const spdlog::level::level_enum level_;
};

// Runs every interval `repetitions` times, the two ways right after each other.
std::vector<TransportPair> MeasurePairs(const Settings& settings, const Console& console,
                                        Interruption& interruption, OwnServer& server,
                                        bench::GrpcClient& client,
                                        const bench::WorkloadSpec& workload) {
  const BenchServeArguments& arguments = settings.bench_serve;
  const int streams = StreamsOf(arguments);
  bench::LoadSpec load;
  load.concurrency = streams;
  load.requests = arguments.requests.value_or(kRequestsPerStream * streams);
  bench::LoadSpec warm_up = load;
  warm_up.requests = arguments.warmup.value_or(streams);
  uint64_t run_number = 0;
  const auto run = [&](const std::string& label, const bench::LoadSpec& spec,
                       const bench::StartCall& start) {
    const auto plan = [&](int index) { return PlanRequest(workload, run_number, index); };
    std::optional<QuietLog> quiet(std::in_place);
    bench::RunResult result = RunLoad(console, interruption, label, spec, plan, start);
    quiet.reset();
    SayResult(console, result);
    return result;
  };
  const auto start_grpc = [&](const bench::CallOptions& options) -> bench::StartCall {
    return [&client, options](const bench::PlannedRequest& planned, bench::CallSink sink) {
      return client.Start(planned, options, std::move(sink));
    };
  };
  if (warm_up.requests > 0) {
    const bench::CallOptions options = CallOptionsOf(arguments, 1);
    run("warm-up in-process", warm_up, StartInProcess(server, options));
    if (!interruption.happened()) run("warm-up gRPC", warm_up, start_grpc(options));
  }
  std::vector<TransportPair> pairs;
  for (int repetition = 1; repetition <= arguments.repetitions; ++repetition) {
    for (const int interval : IntervalsOf(arguments)) {
      if (interruption.happened()) return pairs;
      ++run_number;
      const bench::CallOptions options = CallOptionsOf(arguments, interval);
      const std::string which = absl::StrFormat("interval %d, run %d", interval, repetition);
      TransportPair pair = {.stream_interval_tokens = interval};
      pair.in_process = run("in-process, " + which, load, StartInProcess(server, options));
      if (interruption.happened()) return pairs;
      pair.grpc = run("gRPC, " + which, load, start_grpc(options));
      if (interruption.happened()) return pairs;
      pairs.push_back(std::move(pair));
    }
  }
  return pairs;
}

}  // namespace

absl::StatusOr<int> BenchOwnServer(const Settings& settings, const Console& console,
                                   Interruption& interruption, const std::string& command_line) {
  const BenchServeArguments& arguments = settings.bench_serve;
  const int rows_besides = scheduler::SchedulerConfig{}.min_chunk_rows;
  if (const int streams = StreamsOf(arguments); streams + rows_besides > settings.max_step_rows) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--concurrency %d is too much for --max-step-rows %d: every stream takes a row of a step, "
        "and a prompt at least %d; raise --max-step-rows to %d",
        streams, settings.max_step_rows, rows_besides, streams + rows_besides));
  }
  absl::StatusOr<std::unique_ptr<OwnServer>> server = OwnServer::Start(settings, console);
  if (!server.ok()) return server.status();
  bench::GrpcClient client((*server)->address(), arguments.connections);
  const absl::StatusOr<bench::ServerFacts> info = client.GetServerInfo();
  if (!info.ok()) return info.status();
  const absl::StatusOr<bench::ServedModelFacts> model = client.GetModel();
  if (!model.ok()) return model.status();
  const absl::StatusOr<bench::WorkloadSpec> workload = MakeWorkload(arguments, *model, client);
  if (!workload.ok()) return workload.status();

  const std::vector<TransportPair> pairs =
      MeasurePairs(settings, console, interruption, **server, client, *workload);
  bench::Report report;
  report.facts = MakeFacts(command_line, "in this process", *info, *model, arguments);
  bool succeeded = false;
  for (const TransportPair& pair : pairs) {
    for (const bench::RunResult* run : {&pair.in_process, &pair.grpc}) {
      succeeded = succeeded || Summarize(*run, {}).ok > 0;
      report.runs.push_back(*run);
    }
  }
  std::fputs(TransportReport(report, pairs, arguments.output).c_str(), stdout);
  bench::Report drawn = report;  // the last pair of each interval: all would be too many curves
  const size_t shown = std::min(report.runs.size(), 2 * IntervalsOf(arguments).size());
  drawn.runs.erase(drawn.runs.begin(), drawn.runs.end() - static_cast<std::ptrdiff_t>(shown));
  if (absl::Status s = WriteFiles(arguments, report, drawn); !s.ok()) return s;
  if (interruption.happened()) return kInterruptedExit;
  return succeeded ? 0 : 1;
}

}  // namespace tandem::server
