#include "server/grpc/grpc_server.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/stubs/logging.h"
#include "grpc/grpc.h"
#include "grpc/support/log.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "server/grpc/generation_service.h"
#include "server/grpc/model_messages.h"
#include "server/grpc/service_core.h"
#include "spdlog/spdlog.h"

namespace tandem::server {
namespace {

constexpr std::chrono::milliseconds kHealthPeriod{200};
constexpr int kHealthPeriodsPerRate = 5;
constexpr std::chrono::seconds kCloseTimeout{5};
constexpr int kMinPingIntervalMs = 10'000;  // gateways ping every 30 s, idle or not

// Names of the health service that follow readiness; "liveness" follows liveness.
constexpr std::array<const char*, 3> kReadinessNames = {"", "readiness", "tandem.v1.Generation"};

absl::Status CheckConfig(const GrpcConfig& config) {
  const auto positive = [](const char* name, int64_t value) {
    if (value > 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, "; it must be positive"));
  };
  absl::Status good = positive("max_recv_mib", config.max_recv_mib);
  if (config.max_recv_mib > 1024) {
    good.Update(absl::InvalidArgumentError(
        absl::StrCat("max_recv_mib is ", config.max_recv_mib, "; the limit is 1024")));
  }
  good.Update(positive("max_concurrent_streams", config.max_concurrent_streams));
  good.Update(positive("keepalive_time_ms", config.keepalive_time_ms));
  good.Update(positive("keepalive_timeout_ms", config.keepalive_timeout_ms));
  good.Update(positive("max_n", config.max_n));
  if (config.listen.empty()) {
    good.Update(absl::InvalidArgumentError("listen is empty; give at least one host:port"));
  }
  return good;
}

void SetOptions(const GrpcConfig& config, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(config.max_recv_mib << 20);
  builder.SetMaxSendMessageSize(-1);  // ours are small where it matters
  // gRPC compares a message with its limit only after inflating it, so 64 MiB of gzip could become
  // 64 GiB: compressed requests are refused (UNIMPLEMENTED), prompts do not need it.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a second server must fail to start
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kMinPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, config.keepalive_time_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, config.keepalive_timeout_ms);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, config.max_concurrent_streams);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 1);
  if (config.max_connection_age_s > 0) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, config.max_connection_age_s * 1000);
  }
}

// protobuf complains on stderr about every message it cannot read; clients are told instead.
void LogProtobuf(google::protobuf::LogLevel level, const char*, int, const std::string& message) {
  if (level == google::protobuf::LOGLEVEL_FATAL) {
    spdlog::critical("protobuf: {}", message);
  } else {
    spdlog::debug("protobuf: {}", message);
  }
}

// gRPC's own complaints, such as a port in use, are told to whoever called; here they are detail.
void LogGrpc(gpr_log_func_args* args) {
  spdlog::debug("grpc: {}:{} {}", args->file, args->line, args->message);
}

}  // namespace

struct GrpcServer::Impl {
  Impl(const GrpcConfig& config, HealthState& health, Metrics& metrics)
      : health(health), core(config, health, metrics), services(MakeServices(core)) {}

  void PublishHealth();
  void WatchHealth();

  HealthState& health;
  ServiceCore core;
  std::vector<std::unique_ptr<grpc::Service>> services;
  std::vector<int> ports;
  std::unique_ptr<grpc::Server> server;

  std::mutex publish_mutex;
  std::thread watcher;
  std::mutex end_mutex;  // the fields below
  bool hurried = false;
  bool stop_watching = false;
  std::condition_variable end_changed;

  std::once_flag shut_down;
};

// Tells gRPC's health service what HealthState says.
void GrpcServer::Impl::PublishHealth() {
  const std::lock_guard lock(publish_mutex);
  grpc::HealthCheckServiceInterface* service = server->GetHealthCheckService();
  const bool ready = health.Ready();
  for (const char* name : kReadinessNames) service->SetServingStatus(name, ready);
  service->SetServingStatus("liveness", health.Live());
}

void GrpcServer::Impl::WatchHealth() {
  std::unique_lock lock(end_mutex);
  for (int period = 0; !stop_watching; ++period) {
    lock.unlock();
    PublishHealth();
    if (period % kHealthPeriodsPerRate == 0) core.ObserveRate();
    lock.lock();
    end_changed.wait_for(lock, kHealthPeriod, [&] { return stop_watching; });
  }
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcConfig& config,
                                                              HealthState& health,
                                                              Metrics& metrics) {
  if (const absl::Status good = CheckConfig(config); !good.ok()) return good;
  grpc_init();  // never undone: gRPC's own clean-up sometimes waits ten seconds for a poller
  gpr_set_log_function(LogGrpc);
  google::protobuf::SetLogHandler(LogProtobuf);
  grpc::EnableDefaultHealthCheckService(true);
  if (config.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();

  auto impl = std::make_unique<Impl>(config, health, metrics);
  grpc::ServerBuilder builder;
  SetOptions(config, builder);
  impl->ports.resize(config.listen.size());
  for (size_t i = 0; i < config.listen.size(); ++i) {
    builder.AddListeningPort(config.listen[i], grpc::InsecureServerCredentials(), &impl->ports[i]);
  }
  for (const auto& service : impl->services) builder.RegisterService(service.get());
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr) {
    size_t i = 0;  // the first address without a port is the one that failed
    while (i + 1 < impl->ports.size() && impl->ports[i] != 0) ++i;
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", config.listen[i],
                     ": the address is in use or not ours; stop the other process "
                     "or choose another port"));
  }
  // gRPC starts with the empty name SERVING: correct that first of all.
  impl->server->GetHealthCheckService()->SetServingStatus(false);
  impl->PublishHealth();
  impl->watcher = std::thread([raw = impl.get()] { raw->WatchHealth(); });
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(impl)));
}

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcServer::~GrpcServer() { Shutdown(0); }

const std::vector<int>& GrpcServer::ports() const { return impl_->ports; }

void GrpcServer::Serve(const ServedModel& model, const ServingBackend& backend) {
  std::string fingerprint = Fingerprint(model, impl_->core.config().version);
  impl_->core.SetModel({.model = model, .backend = backend, .fingerprint = std::move(fingerprint)});
  impl_->PublishHealth();
}

void GrpcServer::Shutdown(int64_t drain_ms, int64_t grace_ms) {
  std::call_once(impl_->shut_down, [&] {
    Impl& server = *impl_;
    const auto turn_unready = [&] {
      server.health.SetPhase(Phase::kDraining);
      server.PublishHealth();
    };
    if (grace_ms > 0) {
      turn_unready();
      std::unique_lock lock(server.end_mutex);
      server.end_changed.wait_for(lock, std::chrono::milliseconds(grace_ms),
                                  [&] { return server.hurried; });
    }
    server.core.calls().BeginDrain();
    turn_unready();  // now at the latest: whoever sees it without a grace finds calls refused
    const auto drain = std::chrono::milliseconds(std::max<int64_t>(0, drain_ms));
    if (!server.core.calls().WaitIdle(drain)) {
      const auto handles = server.core.calls().HandlesToCancel();
      spdlog::warn("drain ends: cancelled_calls={}", handles.size());
      const auto model = server.core.Model();
      for (const Generator::Handle handle : handles) {
        (*model)->backend.generator->Cancel(handle, scheduler::CancelCause::kDrain);
      }
    }
    // Lets what is still being sent arrive, then cuts; returns when no callback is left.
    server.server->Shutdown(std::chrono::system_clock::now() + kCloseTimeout);
    server.server->Wait();
    {
      const std::lock_guard lock(server.end_mutex);
      server.stop_watching = true;
      server.end_changed.notify_all();
    }
    server.watcher.join();
    server.health.SetPhase(Phase::kStopped);
  });
}

void GrpcServer::HurryShutdown() {
  {
    const std::lock_guard lock(impl_->end_mutex);
    impl_->hurried = true;
    impl_->end_changed.notify_all();
  }
  impl_->core.calls().Hurry();
}

}  // namespace tandem::server
