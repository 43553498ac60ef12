// What is served and by what, as messages.
//
// Threads   pure functions.
#pragma once

#include <string>

#include "server/grpc/grpc_server.h"
#include "server/grpc/served_model.h"
#include "server/health/health_state.h"
#include "tandem/v1/info.pb.h"

namespace tandem::server {

v1::ModelInfo ToModelInfo(const ServedModel& model);

// `model` may be null while it loads.
v1::ServerInfo ToServerInfo(const GrpcConfig& config, const ServedModel* model, Phase phase,
                            double uptime_s);

// Equal for servers whose answers to one request with one seed are equal: the first 16 hex digits
// of SHA-256 over what decides about them (grpc-surface 2.11).
std::string Fingerprint(const ServedModel& model, const std::string& version);

}  // namespace tandem::server
