#include "server/grpc/wire_status.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "scheduler/status_reason.h"
#include "tandem/rpc/error_details.pb.h"

namespace tandem::server {
namespace {

namespace rpc = google::rpc;

constexpr size_t kMaxMessageBytes = 512;
constexpr double kLoadingRetryS = 1.0;

std::string AsciiMessage(std::string_view text) {
  std::string out(text.substr(0, kMaxMessageBytes));
  std::replace_if(
      out.begin(), out.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return out;
}

void Pack(const google::protobuf::Message& detail, rpc::Status& status) {
  status.add_details()->PackFrom(detail);  // type.googleapis.com/google.rpc.<Name>
}

void PackRetry(double delay_s, rpc::Status& status) {
  rpc::RetryInfo retry;
  const auto nanos = static_cast<int64_t>(std::llround(delay_s * 1e9));
  retry.mutable_retry_delay()->set_seconds(nanos / 1'000'000'000);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  Pack(retry, status);
}

std::string Find(const StatusReason& reason, const char* key) {
  const auto found = reason.metadata.find(key);
  return found == reason.metadata.end() ? "" : found->second;
}

// What comes beside ErrorInfo, by row of the table.
void PackFurtherDetails(const StatusReason& reason, double retry_delay_s, rpc::Status& status) {
  const std::string& word = reason.reason;
  if (!reason.field.empty()) {
    rpc::BadRequest bad;
    auto* violation = bad.add_field_violations();
    violation->set_field(reason.field);
    violation->set_description(status.message());
    Pack(bad, status);
  }
  if (word == "MODEL_NOT_FOUND" || word == "REQUEST_NOT_FOUND") {
    const bool is_model = word == "MODEL_NOT_FOUND";
    rpc::ResourceInfo resource;
    resource.set_resource_type(is_model ? "model" : "request");
    resource.set_resource_name(Find(reason, is_model ? "model" : "request_id"));
    resource.set_description(status.message());
    Pack(resource, status);
  } else if (word == "DRAFTER_UNAVAILABLE") {
    rpc::PreconditionFailure failure;
    auto* violation = failure.add_violations();
    violation->set_type(word);
    violation->set_subject("drafter");
    violation->set_description(status.message());
    Pack(failure, status);
  } else if (word == "DUPLICATE_REQUEST_ID") {
    rpc::RequestInfo request;
    request.set_request_id(Find(reason, "request_id"));
    Pack(request, status);
  } else if (word == "QUEUE_FULL" || word == "TENANT_LIMIT") {
    rpc::QuotaFailure quota;
    auto* violation = quota.add_violations();
    violation->set_subject(word == "QUEUE_FULL" ? "queue" : "tenant");
    violation->set_description(status.message());
    Pack(quota, status);
    PackRetry(retry_delay_s, status);
  } else if (word == "KV_EXHAUSTED") {
    PackRetry(retry_delay_s, status);
  } else if (word == "MODEL_LOADING") {
    PackRetry(kLoadingRetryS, status);
  } else if (word == "DRAINING") {
    PackRetry(0.0, status);  // elsewhere, at once
  }
}

}  // namespace

WireStatus ToWireStatus(const absl::Status& status, double retry_delay_s) {
  if (status.ok()) return {};
  StatusReason reason = GetReason(status);
  const absl::StatusCode code =
      status.code() == absl::StatusCode::kUnknown ? absl::StatusCode::kInternal : status.code();
  if (reason.reason.empty()) reason.reason = absl::StatusCodeToString(code);

  rpc::Status wire;
  wire.set_code(static_cast<int>(code));
  wire.set_message(AsciiMessage(std::string(status.message())));
  rpc::ErrorInfo info;
  info.set_reason(reason.reason);
  info.set_domain("tandem");
  for (const auto& [key, value] : reason.metadata)
    (*info.mutable_metadata())[key] = AsciiMessage(value);
  Pack(info, wire);
  PackFurtherDetails(reason, retry_delay_s, wire);
  return {.code = wire.code(),
          .message = wire.message(),
          .details = wire.SerializeAsString(),
          .reason = reason.reason};
}

}  // namespace tandem::server
