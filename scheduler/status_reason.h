// The machine-readable reason of an error, carried inside absl::Status to the wire.
//
// The scheduler and the text layer attach it; server/grpc turns them into google.rpc details
// (grpc-surface 1.8). `reason` is a word such as "PROMPT_TOO_LONG".
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tandem {

struct StatusReason {
  std::string reason;                                // ErrorInfo.reason
  std::map<std::string, std::string> metadata = {};  // ErrorInfo.metadata
  std::string field = {};                            // BadRequest field path; empty: none
};

// `status` with the reason attached. Does nothing to an OK status.
absl::Status WithReason(absl::Status status, const StatusReason& reason);
// The reason attached to a status; empty `reason` when there is none.
StatusReason GetReason(const absl::Status& status);

}  // namespace tandem
