// What all calls of the services share: options, the model once it is loaded, the calls under way.
//
// Threads   any.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "server/grpc/active_calls.h"
#include "server/grpc/call_timers.h"
#include "server/grpc/grpc_server.h"
#include "server/grpc/params_parser.h"
#include "server/grpc/served_model.h"
#include "server/grpc/wire_status.h"
#include "server/health/health_state.h"
#include "server/metrics/metrics.h"

namespace tandem::server {

struct LoadedModel {
  ServedModel model;
  ServingBackend backend;
  std::string fingerprint;  // Fingerprint() of model_messages.h
};

// Tokens per second while the engine works, smoothed over the last seconds.
class TokenRate {
 public:
  // `tokens_total` so far, at `now_us`. Intervals without tokens are sleep and do not count.
  void Observe(int64_t tokens_total, int64_t now_us);
  double per_second() const { return per_second_; }
  // Of the last interval alone, sleep included.
  double last_per_second() const { return last_per_second_; }

 private:
  int64_t last_tokens_ = 0;
  int64_t last_us_ = 0;
  double per_second_ = 0.0;
  double last_per_second_ = 0.0;
};

// Over the last second or so.
struct TokenRates {
  double prompt_per_s = 0.0;
  double generated_per_s = 0.0;
};

// How long a client should wait for `queued_tokens` to drain (grpc-surface 1.8).
//   random   0..1, spreads the clients by +-20 %
double RetryDelayS(int64_t queued_tokens, double tokens_per_second, double random);

class ServiceCore {
 public:
  ServiceCore(const GrpcConfig& config, HealthState& health, Metrics& metrics);

  const GrpcConfig& config() const { return config_; }
  HealthState& health() { return health_; }
  Metrics& metrics() { return metrics_; }
  ActiveCalls& calls() { return calls_; }
  CallTimers& timers() { return timers_; }
  const RequestLimits& limits() const { return limits_; }
  double uptime_s() const;

  // Once.
  void SetModel(LoadedModel model);
  // kUnavailable MODEL_LOADING until SetModel.
  absl::StatusOr<const LoadedModel*> Model() const;

  // About once a second.
  void ObserveRate();
  TokenRates rates();
  // The status for the wire, with what the server knows about retrying.
  WireStatus Wire(const absl::Status& status);

 private:
  const GrpcConfig config_;
  const RequestLimits limits_;
  HealthState& health_;
  Metrics& metrics_;
  const int64_t started_us_;
  ActiveCalls calls_;
  std::unique_ptr<const LoadedModel> model_owner_;
  std::atomic<const LoadedModel*> model_ = nullptr;
  std::mutex rate_mutex_;  // the three below
  TokenRate rate_;
  TokenRate prompt_rate_;
  TokenRate generated_rate_;
  CallTimers timers_;
};

}  // namespace tandem::server
