#include "server/grpc/request_errors.h"

#include "absl/strings/str_cat.h"
#include "scheduler/status_reason.h"

namespace tandem::server {
namespace {

constexpr size_t kMaxQuoted = 64;

std::string Text(std::string_view a, std::string_view b, std::string_view c = {}) {
  std::string text(a);
  return text.append(b).append(c);
}

}  // namespace

absl::Status BadField(std::string_view field, std::string_view reason, std::string_view problem) {
  return WithReason(absl::InvalidArgumentError(Text(field, " ", problem)),
                    {.reason = std::string(reason), .metadata = {}, .field = std::string(field)});
}

absl::Status BadParameter(std::string_view field, std::string_view problem) {
  return BadField(field, "BAD_PARAMETER", problem);
}

absl::Status Unsupported(std::string_view feature) {
  return WithReason(
      absl::UnimplementedError(Text(feature, " is not supported by this server; do without it")),
      {.reason = "FEATURE_UNSUPPORTED",
       .metadata = {{"feature", std::string(feature)}},
       .field = {}});
}

absl::Status DrafterUnavailable() {
  return WithReason(absl::FailedPreconditionError(
                        "speculative.require is true but no drafter is loaded; leave it "
                        "unset to run without drafts"),
                    {.reason = "DRAFTER_UNAVAILABLE", .metadata = {}, .field = {}});
}

absl::Status ModelNotFound(std::string_view asked, std::string_view served) {
  return WithReason(absl::NotFoundError(Text("model ", Printable(asked)) +
                                        Text(" is not served here; leave model empty or ask for ",
                                             Printable(served))),
                    {.reason = "MODEL_NOT_FOUND",
                     .metadata = {{"model", std::string(asked.substr(0, kMaxQuoted))}},
                     .field = {}});
}

absl::Status DuplicateRequestId(std::string_view request_id) {
  return WithReason(absl::AlreadyExistsError(
                        Text("request_id ", Printable(request_id),
                             " belongs to a call under way; choose another or leave it empty")),
                    {.reason = "DUPLICATE_REQUEST_ID",
                     .metadata = {{"request_id", std::string(request_id)}},
                     .field = {}});
}

absl::Status RequestNotFound(std::string_view request_id) {
  return WithReason(absl::NotFoundError(Text("no call with request_id ", Printable(request_id),
                                             " is under way; it has ended, or never was")),
                    {.reason = "REQUEST_NOT_FOUND",
                     .metadata = {{"request_id", std::string(request_id.substr(0, kMaxQuoted))}},
                     .field = {}});
}

absl::Status AdministratorsOnly(std::string_view what) {
  return WithReason(
      absl::PermissionDeniedError(Text(what, " is for administrators; leave it empty")),
      {.reason = "AUTH", .metadata = {}, .field = {}});
}

absl::Status AdminIsOff(std::string_view method) {
  return WithReason(
      absl::PermissionDeniedError(Text(
          "method ", method, " is for operators; start the server with --admin on to open it")),
      {.reason = "AUTH", .metadata = {}, .field = {}});
}

absl::Status NotIdle(int64_t timeout_ms, int64_t running, int64_t waiting) {
  return WithReason(
      absl::DeadlineExceededError(
          absl::StrCat("the engine was not idle within ", timeout_ms, " ms: ", running, " run and ",
                       waiting, " wait; nothing was freed, try again or without wait_idle")),
      {.reason = "DEADLINE", .metadata = {}, .field = {}});
}

absl::Status ClientCancelled() {
  return WithReason(absl::CancelledError("the client went away"),
                    {.reason = "CLIENT_CANCELLED", .metadata = {}, .field = {}});
}

absl::Status ModelLoading() {
  return WithReason(absl::UnavailableError("the model is still loading; retry shortly"),
                    {.reason = "MODEL_LOADING", .metadata = {}, .field = {}});
}

absl::Status Draining() {
  return WithReason(absl::UnavailableError("the server is shutting down; retry elsewhere"),
                    {.reason = "DRAINING", .metadata = {}, .field = {}});
}

std::string Printable(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, kMaxQuoted)) out += c >= ' ' && c <= '~' ? c : '?';
  if (text.size() > kMaxQuoted) out += "...";
  return out += '"';
}

}  // namespace tandem::server
