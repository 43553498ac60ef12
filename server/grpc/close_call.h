// How calls without a generation of their own end: counted, and with details on the wire.
#pragma once

#include "grpcpp/support/status.h"
#include "server/grpc/service_core.h"
#include "server/grpc/wire_message.h"

namespace tandem::server {

// The status to finish the call with. `method` as metrics name it.
inline grpc::Status CloseCall(ServiceCore& core, const char* method, const absl::Status& status) {
  const WireStatus wire = core.Wire(status);
  core.metrics().OnGrpcCall(method, wire.code);
  return ToGrpcStatus(wire);
}

}  // namespace tandem::server
