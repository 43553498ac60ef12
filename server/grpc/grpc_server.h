// The gRPC front: listeners, services, health, reflection, and an orderly end.
//
// In        addresses; from Serve on, a model and the Generator that runs it.
// Out       tandem.v1.Generation, grpc.health.v1.Health, reflection.
// Not here  the HTTP side port (server/http); what a method does (generation_service.h); signals.
// Threads   every method from any thread. Callbacks run on gRPC's threads and the text pool.
//
// Order of life: Start before the model loads (calls get UNAVAILABLE MODEL_LOADING), Serve when it
// is loaded, Shutdown when the process is told to end. Only then may the Generator go away.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/scheduler.h"
#include "server/generation/generator.h"
#include "server/grpc/served_model.h"
#include "server/health/health_state.h"
#include "server/metrics/metrics.h"
#include "server/text/tokenizer.h"

namespace tandem::server {

struct GrpcConfig {
  std::vector<std::string> listen = {"0.0.0.0:50051"};  // host:port; port 0 takes a free one
  int max_recv_mib = 64;              // larger messages are refused by gRPC (RESOURCE_EXHAUSTED)
  int max_concurrent_streams = 4096;  // per connection; above the queue, or clients queue unseen
  int keepalive_time_ms = 60'000;     // ping silent clients ...
  int keepalive_timeout_ms = 20'000;  // ... and close when they do not answer for so long
  int max_connection_age_s = 0;       // 0: unlimited; else clients reconnect, streams may finish
  bool reflection = true;
  bool admin = false;                     // the Admin service is open to whoever reaches a port
  int max_n = 8;                          // choices per request
  int max_prompt_logprob_tokens = 8192;   // longest prompt that is scored
  int64_t default_deadline_s = 0;         // for calls without one; 0: none
  int64_t default_queue_timeout_ms = 0;   // for requests without one; 0: none
  int64_t stream_buffer_tokens = 4096;    // a stream that lags further behind ...
  int64_t stream_buffer_bytes = 1 << 20;  // ... or by more bytes is paused until it has caught up
  int64_t slow_consumer_timeout_s = 60;   // by half; paused so long, ABORTED SLOW_CONSUMER ends it
  bool pause_slow_consumers = true;       // false: ended at once
  std::string replica = {};               // x-tandem-replica; empty: not sent
  std::string version = {};               // for GetServerInfo
  std::string git_commit = {};
  std::string build_flags = {};
};

// Borrowed; all outlive Shutdown.
struct ServingBackend {
  Generator* generator = nullptr;
  const Tokenizer* tokenizer = nullptr;
  scheduler::Scheduler* scheduler = nullptr;  // clock, snapshot, places in the queue
};

class GrpcServer {
 public:
  // Binds and serves. `health` and `metrics` outlive the server.
  //   errors  kInvalidArgument: an option out of range; kUnavailable: a port cannot be bound
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcConfig& config,
                                                           HealthState& health, Metrics& metrics);
  ~GrpcServer();  // Shutdown(0) if that has not happened
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  const std::vector<int>& ports() const;  // the bound ones, in the order of `listen`

  // Once: from now on generation calls run. Health follows `health`, whose phase the caller sets.
  void Serve(const ServedModel& model, const ServingBackend& backend);

  // Turns readiness off, takes new calls for another `grace_ms` while load balancers notice, then
  // refuses them (UNAVAILABLE DRAINING), waits up to `drain_ms` for those running, ends the rest
  // (UNAVAILABLE SHUTTING_DOWN) and closes the listeners. Sets kDraining, then kStopped. Blocks
  // until no call is left.
  void Shutdown(int64_t drain_ms, int64_t grace_ms = 0);
  // Makes a Shutdown that waits go on at once: a second signal.
  void HurryShutdown();

 private:
  struct Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::server
