#include "server/grpc/shared_fields.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/grpc/digest.h"
#include "server/grpc/request_errors.h"
#include "server/grpc/request_id.h"
#include "tandem/v1/chat.pb.h"
#include "tandem/v1/generate.pb.h"

namespace tandem::server {
namespace {

constexpr size_t kMaxNameBytes = 128;
constexpr size_t kMaxLabels = 8;
constexpr size_t kMaxLabelKeyBytes = 32;
constexpr size_t kMaxLabelValueBytes = 64;

absl::StatusOr<std::string> RequestId(const std::string& request_id, const CallFacts& call) {
  absl::Status good = CheckRequestId("request_id", request_id);
  if (!good.ok()) return good;
  if (!request_id.empty()) return request_id;
  good = CheckRequestId("metadata x-request-id", call.request_id_header);
  if (!good.ok()) return good;
  if (!call.request_id_header.empty()) return std::string(call.request_id_header);
  return call.generated_id;
}

absl::Status CheckLabels(const google::protobuf::Map<std::string, std::string>& labels) {
  if (labels.size() > kMaxLabels) {
    return BadParameter("labels",
                        absl::StrCat("has ", labels.size(), " entries; the limit is ", kMaxLabels));
  }
  for (const auto& [key, value] : labels) {
    if (key.empty() || key.size() > kMaxLabelKeyBytes) {
      return BadParameter("labels", absl::StrCat("has the key ", Printable(key), " of ", key.size(),
                                                 " bytes; keys have 1 to ", kMaxLabelKeyBytes));
    }
    if (value.size() > kMaxLabelValueBytes) {
      return BadParameter(
          absl::StrCat("labels[", Printable(key), "]"),
          absl::StrCat("has ", value.size(), " bytes; the limit is ", kMaxLabelValueBytes));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckModelName(std::string_view asked, const ServedModel& model) {
  const auto is = [&](const std::string& name) {
    return asked == name || asked == absl::StrCat(name, ":", model.revision);
  };
  if (asked.empty() || is(model.name) ||
      std::any_of(model.aliases.begin(), model.aliases.end(), is)) {
    return absl::OkStatus();
  }
  return ModelNotFound(asked, model.name);
}

template <class Request>
absl::StatusOr<ParsedRequest> ParseSharedFields(
    const Request& proto, const ServedModel& model, const RequestLimits& limits,
    const CallFacts& call, const std::function<absl::Status(GenerationSpec& spec)>& parse_prompt) {
  absl::StatusOr<std::string> request_id = RequestId(proto.request_id(), call);
  if (!request_id.ok()) return request_id.status();
  ParsedRequest parsed;
  parsed.request_id = *std::move(request_id);
  if (!proto.user().empty()) parsed.user_digest = ShortDigest(proto.user());
  GenerationSpec& spec = parsed.spec;
  spec.request.client_id = parsed.request_id;
  spec.request.arrival_us = call.arrival_us;
  spec.request.deadline_us = call.deadline_us;
  spec.request.tenant = call.tenant_header.substr(0, kMaxNameBytes);

  absl::Status good = CheckModelName(proto.model(), model);
  const auto also = [&](auto&& check) {
    if (good.ok()) good = check();
  };
  also([&] { return CheckBytes("idempotency_key", proto.idempotency_key(), kMaxNameBytes); });
  also([&] { return CheckBytes("user", proto.user(), kMaxNameBytes); });
  also([&] { return CheckLabels(proto.labels()); });
  also([&] { return parse_prompt(spec); });
  also([&] { return ParseSampling(proto.sampling(), model, limits, call.random_seed, spec); });
  also([&] { return ParseOutput(proto.output(), spec, parsed.report); });
  also([&] { return ParseStopping(proto.stopping(), model, spec); });
  also([&] { return ParseScheduling(proto.scheduling(), limits, spec); });
  also([&] { return ParseSpeculative(proto.speculative(), call.spec_header, model, spec); });
  also([&] { return ParseCache(proto.cache(), spec); });
  if (proto.has_guided()) also([&] { return CheckGuided(proto.guided()); });
  // A stream cannot be attached to, so there the key has no meaning.
  if (!proto.idempotency_key().empty() && !call.streaming) {
    also([&] { return Unsupported("idempotency_key"); });
  }
  if (!good.ok()) return good;
  return parsed;
}

template absl::StatusOr<ParsedRequest> ParseSharedFields(
    const v1::GenerateRequest& proto, const ServedModel& model, const RequestLimits& limits,
    const CallFacts& call, const std::function<absl::Status(GenerationSpec& spec)>& parse_prompt);
template absl::StatusOr<ParsedRequest> ParseSharedFields(
    const v1::ChatRequest& proto, const ServedModel& model, const RequestLimits& limits,
    const CallFacts& call, const std::function<absl::Status(GenerationSpec& spec)>& parse_prompt);

}  // namespace tandem::server
