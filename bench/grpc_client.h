// A client of tandem.v1.Generation that keeps thousands of calls open without a thread each.
//
// In        planned requests.
// Out       how many tokens came with each message, and how the call ended, through a CallSink on
//           gRPC's threads.
// Not here  when to send (load_run.h). gRPC's headers stay in grpc_client.cc.
// Threads   any. Nothing is retried and no proxy is used: what is measured is one server.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/load_run.h"

namespace tandem::bench {

// What all calls of a run have in common.
struct CallOptions {
  bool unary = false;     // Generate instead of GenerateStream
  bool keep_eos = false;  // answers may end before their length
  std::optional<double> temperature;
  int priority = 0;
  int64_t deadline_ms = 0;         // 0: none
  int stream_interval_tokens = 0;  // 0: the server's
  std::string cache_salt;          // nothing is found that was sent with another one
};

struct ServerFacts {
  std::string version;
  std::string commit;
  std::string build;
  std::string device;
  std::string state;  // loading, ready, draining, ...
};

struct ServedModelFacts {
  std::string name;
  std::string revision;
  std::string weight_format;
  std::string kv_format;
  int vocab_size = 0;
  int context_length = 0;
  int32_t bos_id = 0;
};

class GrpcClient {
 public:
  // Opens nothing yet: the first call does. Calls take turns on `connections` connections.
  GrpcClient(std::string address, int connections);
  // After the end of every call.
  ~GrpcClient();
  GrpcClient(const GrpcClient&) = delete;
  GrpcClient& operator=(const GrpcClient&) = delete;

  //   errors  kUnavailable with the address and what to start, when nobody answers
  absl::StatusOr<ServerFacts> GetServerInfo();
  absl::StatusOr<ServedModelFacts> GetModel();
  // Ordinary ids only: no BOS, no control tokens.
  absl::StatusOr<std::vector<int32_t>> Tokenize(const std::string& text);

  CancelCall Start(const PlannedRequest& request, const CallOptions& options, CallSink sink);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::bench
