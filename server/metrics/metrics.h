// The numbers an operator watches, under the names of grpc-surface 5.2: vLLM's (`vllm:*`) where the
// meaning is the same, `tandem_*` for the rest.
//
// In        one call per request, per step and per gRPC call; the scheduler's snapshot.
// Out       the Prometheus text format, for GET /metrics.
// Not here  HTTP (server/http); what the names mean to dashboards (deploy/).
// Threads   any. Recording is atomic adds; rendering reads the published snapshot and never waits
//           for a step.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/request.h"
#include "scheduler/scheduler.h"
#include "server/health/health_state.h"

namespace tandem::server {

// Layers of one KV group that store the same formats.
struct KvFormatFacts {
  engine::KvGroup group = engine::kSliding;
  std::string k = {};
  std::string v = {};
  std::string k_path = {};  // how queries meet keys: int8 or float
  int layers = 0;
};

// What is known once the model is loaded, as labels of info series.
struct ModelFacts {
  std::string architecture = {};
  std::string revision = {};
  std::string weight_format = {};
  std::string kv_format = {};
  std::string backend = {};
  std::string drafter = {};  // name of the assistant; empty: none
  int kv_block_tokens = 0;
  int64_t kv_blocks = 0;  // of the full group: what a router may expect to find cached
  bool prefix_cache = false;
  std::vector<KvFormatFacts> kv_formats = {};
  std::array<int64_t, engine::kNumKvGroups> kv_bytes_per_token = {};  // 0: no such layers
  int max_draft_tokens = 0;  // positions of a draft; 0: there is no drafter
};

// How one generation ended.
struct RequestOutcome {
  absl::Status status = {};
  std::string_view reason = {};  // ErrorInfo.reason; empty when OK
  bool started = false;          // its first row ran
  int n = 1;                     // choices
  int max_tokens = 0;            // as asked; 0: not
  std::string_view tenant = {};
  scheduler::RequestStats stats = {};
};

class Metrics {
 public:
  //   model_name  the label of every series
  //   tenants     whose tokens are counted one by one; those of all others are "other"
  explicit Metrics(std::string_view model_name, const std::vector<std::string>& tenants = {});
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // Once, when the model is loaded.
  void SetModel(const ModelFacts& facts);
  // Seconds of one phase of the start, such as "load" or "warmup".
  void SetStartupSeconds(std::string_view phase, double seconds);
  // Where the gauges come from. An empty probe ends that; afterwards the old one is not called.
  void WatchEngine(EngineProbe probe);

  // As scheduler::SchedulerObserver::on_step.
  void OnStep(const scheduler::StepTiming& timing);
  // The first token of a request, so long after its arrival.
  void OnFirstToken(int64_t ttft_us);
  // `tokens` more tokens of one choice, `gap_us` after those before: so many observations of the
  // mean gap between tokens.
  void OnMoreTokens(int64_t gap_us, int tokens);
  void OnRequestDone(const RequestOutcome& outcome);
  // A cancelled request's blocks were free so long after its cancellation.
  void OnFreed(int64_t us);
  // `method` as in the proto, `code` as in grpc::StatusCode.
  void OnGrpcCall(std::string_view method, int code);

  // Prometheus text format 0.0.4.
  std::string Render(const HealthState& health);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::server
