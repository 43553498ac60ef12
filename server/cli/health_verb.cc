// `tandem health`: one question to the health service of a server, for probes and for people.

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_format.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "server/cli/verbs.h"

namespace tandem::server {
namespace {

namespace pb = ::grpc::health::v1;

constexpr int kNotServing = 1;

// What one Check came to.
struct Probe {
  grpc::Status status;
  pb::HealthCheckResponse::ServingStatus answer = pb::HealthCheckResponse::UNKNOWN;
  double ms = 0.0;

  bool serving() const { return status.ok() && answer == pb::HealthCheckResponse::SERVING; }
};

Probe Ask(const HealthArguments& health) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  const auto channel =
      grpc::CreateCustomChannel(health.address, grpc::InsecureChannelCredentials(), arguments);
  const auto stub = pb::Health::NewStub(channel);
  const auto begin = std::chrono::steady_clock::now();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(health.timeout_ms));
  pb::HealthCheckRequest request;
  request.set_service(health.service);
  pb::HealthCheckResponse response;
  Probe probe;
  probe.status = stub->Check(&context, request, &response);
  probe.answer = response.status();
  probe.ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  return probe;
}

// Why there was no answer, and what to try.
std::string Trouble(const HealthArguments& health, const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return absl::StrFormat(
          "nothing answers at --address %s (%s); is `tandem serve` running there?", health.address,
          status.error_message());
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return absl::StrFormat(
          "no answer from --address %s within %d ms; raise --timeout-ms, or see "
          "whether that is the gRPC port of a server",
          health.address, health.timeout_ms);
    case grpc::StatusCode::NOT_FOUND:
      return absl::StrFormat(
          "the server at %s knows no service '%s'; ask for readiness, liveness "
          "or the full name of a gRPC service, such as tandem.v1.Generation",
          health.address, health.service);
    case grpc::StatusCode::UNIMPLEMENTED:
      return absl::StrFormat("the server at %s has no health service; is it Tandem?",
                             health.address);
    default:
      return absl::StrFormat("the server at %s answers code %d: %s", health.address,
                             static_cast<int>(status.error_code()), status.error_message());
  }
}

void PrintJson(const HealthArguments& health, const Probe& probe) {
  nlohmann::ordered_json json = {{"address", health.address},
                                 {"service", health.service},
                                 {"serving", probe.serving()},
                                 {"ms", probe.ms}};
  if (probe.status.ok()) {
    json["status"] = pb::HealthCheckResponse::ServingStatus_Name(probe.answer);
  } else {
    json["error"] = Trouble(health, probe.status);
  }
  std::printf("%s\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

}  // namespace

absl::StatusOr<int> Health(const Settings& settings) {
  const HealthArguments& health = settings.health;
  const Probe probe = Ask(health);
  if (settings.json) {
    PrintJson(health, probe);
    return probe.serving() ? 0 : kNotServing;
  }
  if (!probe.status.ok()) {
    return absl::Status(static_cast<absl::StatusCode>(probe.status.error_code()),
                        Trouble(health, probe.status));
  }
  const std::string service = health.service.empty() ? "server" : health.service;
  std::printf("%s: %s\n", service.c_str(), probe.serving() ? "serving" : "not serving");
  return probe.serving() ? 0 : kNotServing;
}

}  // namespace tandem::server
