// The errors that the gRPC layer itself answers with, reason attached (grpc-surface 1.8).
//
// Texts are made from numbers, field names and short printable pieces of what the client sent; they
// never repeat a prompt.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tandem::server {

// INVALID_ARGUMENT BAD_PARAMETER. `problem` goes on after the field's path: "is 3; it must be ...".
absl::Status BadParameter(std::string_view field, std::string_view problem);
// INVALID_ARGUMENT with another reason, such as EMPTY_PROMPT.
absl::Status BadField(std::string_view field, std::string_view reason, std::string_view problem);
// UNIMPLEMENTED FEATURE_UNSUPPORTED. `feature` is the path of a field or the name of a method.
absl::Status Unsupported(std::string_view feature);
// FAILED_PRECONDITION DRAFTER_UNAVAILABLE.
absl::Status DrafterUnavailable();
// NOT_FOUND MODEL_NOT_FOUND.
absl::Status ModelNotFound(std::string_view asked, std::string_view served);
// ALREADY_EXISTS DUPLICATE_REQUEST_ID.
absl::Status DuplicateRequestId(std::string_view request_id);
// NOT_FOUND REQUEST_NOT_FOUND.
absl::Status RequestNotFound(std::string_view request_id);
// PERMISSION_DENIED AUTH. `what` is asked for and reserved to administrators.
absl::Status AdministratorsOnly(std::string_view what);
// PERMISSION_DENIED AUTH: the Admin service is not open. `method` by its name.
absl::Status AdminIsOff(std::string_view method);
// DEADLINE_EXCEEDED DEADLINE: others kept the engine busy for `timeout_ms`.
absl::Status NotIdle(int64_t timeout_ms, int64_t running, int64_t waiting);
// CANCELLED CLIENT_CANCELLED.
absl::Status ClientCancelled();
// UNAVAILABLE MODEL_LOADING.
absl::Status ModelLoading();
// UNAVAILABLE DRAINING.
absl::Status Draining();

// `text` in quotes, fit for a message: at most 64 bytes of it, everything but printable ASCII as
// '?'.
std::string Printable(std::string_view text);

}  // namespace tandem::server
