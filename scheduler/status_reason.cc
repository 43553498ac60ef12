#include "scheduler/status_reason.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tandem {
namespace {

constexpr char kPayloadUrl[] = "type.tandem/StatusReason";

// A payload is a list of strings, each "<length>:<bytes>": reason, field, then key and value in
// turn.
void Append(std::string& out, std::string_view text) {
  out += std::to_string(text.size());
  out += ':';
  out += text;
}

std::string Take(std::string_view& in) {
  const size_t colon = in.find(':');
  size_t size = 0;
  if (colon == in.npos || !absl::SimpleAtoi(std::string(in.substr(0, colon)), &size)) {
    in = {};
    return {};
  }
  in.remove_prefix(colon + 1);
  std::string text(in.substr(0, size));
  in.remove_prefix(text.size());
  return text;
}

}  // namespace

absl::Status WithReason(absl::Status status, const StatusReason& reason) {
  std::string payload;
  Append(payload, reason.reason);
  Append(payload, reason.field);
  for (const auto& [key, value] : reason.metadata) {
    Append(payload, key);
    Append(payload, value);
  }
  status.SetPayload(kPayloadUrl, absl::Cord(std::move(payload)));  // nothing to do when OK
  return status;
}

StatusReason GetReason(const absl::Status& status) {
  StatusReason reason;
  const auto payload = status.GetPayload(kPayloadUrl);
  if (!payload.has_value()) return reason;
  const std::string bytes(*payload);
  std::string_view rest = bytes;
  reason.reason = Take(rest);
  reason.field = Take(rest);
  while (!rest.empty()) {
    std::string key = Take(rest);
    reason.metadata[std::move(key)] = Take(rest);
  }
  return reason;
}

}  // namespace tandem
