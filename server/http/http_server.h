// The side port for probes and scrapers: GET /metrics /livez /readyz /version, and nothing else.
//
// Threads   civetweb's own, one per open connection. Handlers never wait for the engine.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/health/health_state.h"
#include "server/metrics/metrics.h"

namespace tandem::server {

struct HttpConfig {
  std::string listen = "0.0.0.0:8080";  // host:port; port 0 takes a free one
  int threads = 16;                     // connections served at a time
  std::string version = {};             // for /version
  std::string git_commit = {};
};

class HttpServer {
 public:
  // Binds and serves. `health` and `metrics` outlive the server.
  //   errors  kInvalidArgument: `listen` is not host:port; kUnavailable: the port cannot be bound
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpConfig& config,
                                                           HealthState& health, Metrics& metrics);
  ~HttpServer();  // closes the port, waits for handlers
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;  // the bound one

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::server
