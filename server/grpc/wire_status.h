// absl::Status to what goes over the wire: code, message, and google.rpc details
// (grpc-surface 1.8).
#pragma once

#include <string>

#include "absl/status/status.h"

namespace tandem::server {

struct WireStatus {
  int code = 0;         // grpc::StatusCode, which equals absl::StatusCode
  std::string message;  // printable ASCII, at most 512 bytes
  std::string details;  // serialised google.rpc.Status for grpc-status-details-bin; empty when OK
  std::string reason;   // ErrorInfo.reason, for metrics and logs
};

// An error without a reason gets its code's name as reason; UNKNOWN becomes INTERNAL.
//   retry_delay_s   what to tell clients whose request found no room
WireStatus ToWireStatus(const absl::Status& status, double retry_delay_s);

}  // namespace tandem::server
