// `tandem serve`: ports first, then the model, then calls until a signal, then an orderly end.

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "scheduler/scheduler.h"
#include "server/cli/console.h"
#include "server/cli/format.h"
#include "server/cli/loaded_engine.h"
#include "server/cli/running_model.h"
#include "server/cli/served_model_facts.h"
#include "server/cli/signals.h"
#include "server/cli/status_line.h"
#include "server/cli/verbs.h"
#include "server/cli/version.h"
#include "server/grpc/grpc_server.h"
#include "server/health/health_state.h"
#include "server/http/http_server.h"
#include "server/metrics/metrics.h"

namespace tandem::server {
namespace {

constexpr double kStatusSeconds = 10.0;

// From the start of the process to its end, as signals see it.
class Stopper {
 public:
  // Waits for the first signal; false after `seconds` without one.
  bool WaitFor(double seconds) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                             [&] { return signals_ > 0; });
  }
  // From now on a first signal ends in WaitFor, further ones in `hurry`. Before, a signal ends the
  // process: nothing was accepted yet.
  void Arm(std::function<void()> hurry) {
    const std::lock_guard lock(mutex_);
    hurry_ = std::move(hurry);
  }
  void Disarm() {
    const std::lock_guard lock(mutex_);
    hurry_ = [] {};
  }

  void OnSignal() {
    const std::lock_guard lock(mutex_);
    if (!hurry_) {
      std::fputs("\ntandem: stopped while loading\n", stderr);
      _exit(0);
    }
    if (++signals_ > 1) hurry_();
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int signals_ = 0;
  std::function<void()> hurry_;
};

// HOST:PORT with the port that was bound.
std::string BoundAddress(const std::string& listen, int port) {
  return listen.substr(0, listen.rfind(':') + 1) + std::to_string(port);
}

// The same as another terminal of this machine would call it.
std::string LocalAddress(const std::string& bound) {
  const std::string port = bound.substr(bound.rfind(':'));
  for (const char* any : {"0.0.0.0", "[::]"}) {
    if (bound == any + port) return "localhost" + port;
  }
  return bound;
}

std::string HostName() {
  std::array<char, 256> name = {};
  return gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data()) : "";
}

GrpcConfig MakeGrpcConfig(const Settings& settings) {
  GrpcConfig config;
  config.listen = settings.grpc_listen;
  config.max_recv_mib = settings.grpc_max_recv_mib;
  config.max_concurrent_streams = std::max(config.max_concurrent_streams,
                                           settings.max_queued_requests + settings.max_slots + 64);
  config.max_connection_age_s = settings.grpc_max_connection_age_s;
  config.reflection = settings.reflection == "on";
  config.admin = settings.admin == "on";
  config.max_n = settings.max_n;
  config.max_prompt_logprob_tokens = settings.max_prompt_logprob_tokens;
  config.default_deadline_s = settings.default_deadline_s;
  config.default_queue_timeout_ms = settings.default_queue_timeout_ms;
  config.stream_buffer_tokens = settings.stream_buffer_tokens;
  config.slow_consumer_timeout_s = settings.slow_consumer_timeout_s;
  config.pause_slow_consumers = settings.slow_consumer == "pause";
  config.replica = settings.replica.empty() ? HostName() : settings.replica;
  config.version = Version();
  config.git_commit = GitCommit();
  config.build_flags = BuildFlags();
  return config;
}

scheduler::SchedulerConfig MakeSchedulerConfig(const Settings& settings,
                                               const scheduler::ModelLimits& limits) {
  int64_t kv_tokens = 0;  // of the full group, or of the only one
  for (const int32_t blocks : limits.num_blocks) {
    if (blocks > 0) kv_tokens = int64_t{blocks} * limits.block_tokens;
  }
  return {.max_slots = settings.max_slots,
          .max_step_rows = settings.max_step_rows,
          .max_queued_requests = settings.max_queued_requests,
          .max_queued_tokens =
              settings.max_queued_tokens > 0 ? settings.max_queued_tokens : 4 * kv_tokens,
          .max_queued_bytes = int64_t{settings.max_queued_mib} << 20,
          .max_queued_per_tenant = settings.max_queued_per_tenant,
          .reject_hopeless = settings.reject_hopeless == "on",
          .step_target_us = int64_t{settings.step_target_ms} * 1000,
          .prefix_cache = settings.prefix_cache != "off",
          .prefix_cache_per_tenant = settings.prefix_cache == "tenant"};
}

struct Listeners {
  std::unique_ptr<GrpcServer> grpc;
  std::unique_ptr<HttpServer> http;  // null: off
  std::vector<std::string> grpc_addresses;
  std::string http_address;
};

absl::StatusOr<Listeners> Listen(const Settings& settings, HealthState& health, Metrics& metrics) {
  Listeners listeners;
  absl::StatusOr<std::unique_ptr<GrpcServer>> grpc =
      GrpcServer::Start(MakeGrpcConfig(settings), health, metrics);
  if (!grpc.ok()) {
    return absl::Status(
        grpc.status().code(),
        absl::StrFormat("--grpc-listen %s: %s", absl::StrJoin(settings.grpc_listen, ","),
                        std::string(grpc.status().message())));
  }
  listeners.grpc = *std::move(grpc);
  for (size_t i = 0; i < settings.grpc_listen.size(); ++i) {
    listeners.grpc_addresses.push_back(
        BoundAddress(settings.grpc_listen[i], listeners.grpc->ports()[i]));
  }
  if (settings.http_listen == "off") return listeners;
  absl::StatusOr<std::unique_ptr<HttpServer>> http =
      HttpServer::Start({.listen = settings.http_listen,
                         .version = std::string(Version()),
                         .git_commit = std::string(GitCommit())},
                        health, metrics);
  if (!http.ok()) {
    return absl::Status(http.status().code(),
                        absl::StrFormat("--http-listen %s: %s", settings.http_listen,
                                        std::string(http.status().message())));
  }
  listeners.http = *std::move(http);
  listeners.http_address = BoundAddress(settings.http_listen, listeners.http->port());
  return listeners;
}

// Something to paste into another terminal: a conversation, or with a model that has none a look at
// the metrics.
std::string LineToTry(const Listeners& listeners, bool has_chat) {
  if (has_chat) {
    const std::filesystem::path program = ProgramPath();
    std::error_code error;
    std::string name = std::filesystem::proximate(program, error).string();
    if (error || name.starts_with("..")) name = program.string();
    return name + " chat --connect " + LocalAddress(listeners.grpc_addresses[0]);
  }
  if (listeners.http == nullptr) return "";
  return "curl -s " + LocalAddress(listeners.http_address) + "/metrics";
}

void SayReady(const Console& console, const Listeners& listeners, bool has_chat, double seconds) {
  const std::string grpc = absl::StrJoin(listeners.grpc_addresses, ",");
  std::string text = "grpc " + grpc;
  std::string event = "grpc=" + grpc;
  if (listeners.http != nullptr) {
    text += "  http http://" + listeners.http_address;
    event += " http=" + listeners.http_address;
  }
  console.Note("ready", absl::StrFormat("%s  (%s)", text, SecondsText(seconds)),
               absl::StrFormat("%s seconds=%.1f", event, seconds));
  if (const std::string line = LineToTry(listeners, has_chat); !line.empty()) {
    console.Note("try", line, "command=\"" + line + "\"");
  }
}

void SayLoaded(const Console& console, const LoadedEngine& engine) {
  const MemoryPlan& plan = engine.memory;
  const uint64_t bytes = plan.weight_bytes + plan.ple_bytes;
  console.Note("loaded", absl::StrFormat("%s in %s", BytesText(bytes), SecondsText(engine.load_s)),
               absl::StrFormat("bytes=%d seconds=%.2f", bytes, engine.load_s));
}

// Status lines until the first signal.
void WaitForSignal(const Console& console, const scheduler::Scheduler& scheduler,
                   Stopper& stopper) {
  scheduler::SchedulerStats before = scheduler.stats();
  double before_s = MonotonicSeconds();
  while (!stopper.WaitFor(kStatusSeconds)) {
    const scheduler::SchedulerStats now = scheduler.stats();
    const double now_s = MonotonicSeconds();
    const std::optional<StatusLine> line = MakeStatusLine(before, now, now_s - before_s);
    if (line.has_value()) console.Note("status", line->text, line->event);
    before = now;
    before_s = now_s;
  }
}

}  // namespace

absl::Status Serve(const Settings& settings, const Terminal& terminal) {
  const double begin_s = MonotonicSeconds();
  BlockStopSignals();
  signal(SIGPIPE, SIG_IGN);
  Stopper stopper;
  const SignalWatcher watcher([&](int) { stopper.OnSignal(); });
  const Console console(terminal);

  absl::StatusOr<ModelSource> source = FindModel(settings);
  if (!source.ok()) return source.status();
  if (!settings.served_model_name.empty()) source->name = settings.served_model_name;
  console.Note("tandem", absl::StrFormat("%s (%s)", Version(), GitCommit()),
               absl::StrFormat("version=%s commit=%s", Version(), GitCommit()));

  HealthState health({.live_stall_us = int64_t{settings.stall_timeout_s} * 1'000'000});
  Metrics metrics(source->name, settings.metric_tenants);
  absl::StatusOr<Listeners> listeners = Listen(settings, health, metrics);
  if (!listeners.ok()) return listeners.status();

  absl::StatusOr<Tokenizer> tokenizer = LoadTokenizers(settings, *source);
  if (!tokenizer.ok()) return tokenizer.status();
  ModelStart start;
  start.memory = ServingMemory(settings, *source);
  start.scheduler = [&](const scheduler::ModelLimits& limits) {
    return MakeSchedulerConfig(settings, limits);
  };
  start.text.default_max_tokens = settings.default_max_tokens;
  start.describe = true;
  start.progress = [&](size_t done, size_t total) {
    health.SetProgress(total == 0 ? 1.0 : static_cast<double>(done) / total);
  };
  start.observer = {.on_step = [&](const scheduler::StepTiming& timing) { metrics.OnStep(timing); },
                    .on_freed = [&](scheduler::CancelCause, int64_t us) { metrics.OnFreed(us); }};
  absl::StatusOr<std::unique_ptr<RunningModel>> running = RunningModel::Start(
      settings, *std::move(source), *std::move(tokenizer), console, std::move(start));
  if (!running.ok()) return running.status();
  RunningModel& model = **running;
  scheduler::Scheduler& scheduler = model.scheduler();
  SayLoaded(console, model.engine());
  metrics.SetStartupSeconds("load", model.engine().load_s);
  metrics.SetStartupSeconds("warmup", model.warm_up_s());

  const ServedModel served = DescribeModel(settings, model.source(), model.tokenizer(),
                                           model.engine(), model.generator().max_prompt_tokens());
  const engine::Runner& runner = *model.engine().runner;
  const EngineProbe probe = {
      .stats = [&] { return scheduler.stats(); },
      .now_us = [&] { return scheduler.now_us(); },
      .kv_encoded = std::bind_front(&engine::Runner::encode_counts, &runner)};
  metrics.SetModel(FactsOf(served, model.engine()));
  metrics.WatchEngine(probe);
  health.WatchEngine(probe);
  health.SetPhase(Phase::kReady);
  listeners->grpc->Serve(
      served,
      {.generator = &model.generator(), .tokenizer = &model.tokenizer(), .scheduler = &scheduler});
  stopper.Arm([&] { listeners->grpc->HurryShutdown(); });
  SayReady(console, *listeners, served.has_chat, MonotonicSeconds() - begin_s);

  WaitForSignal(console, scheduler, stopper);
  // Nobody balances load over a server that somebody watches in a terminal.
  const int grace_s = terminal.interactive ? 0 : settings.drain_grace_s;
  console.Note("drain",
               absl::StrFormat("finishing what runs, up to %d s; a second signal ends it",
                               settings.drain_timeout_s),
               absl::StrFormat("grace_s=%d timeout_s=%d", grace_s, settings.drain_timeout_s));
  listeners->grpc->Shutdown(int64_t{settings.drain_timeout_s} * 1000, int64_t{grace_s} * 1000);
  stopper.Disarm();
  model.Stop();
  metrics.WatchEngine({});
  health.WatchEngine({});
  int64_t requests = 0;
  for (const int64_t count : scheduler.stats().requests_finished_total) requests += count;
  console.Note("stopped", CountText(requests) + " requests were answered",
               absl::StrFormat("requests=%d", requests));
  return absl::OkStatus();
}

}  // namespace tandem::server
