#include "server/grpc/request_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/grpc/request_errors.h"
#include "server/grpc/request_id.h"

namespace tandem::server {
namespace {

constexpr size_t kMaxNameBytes = 128;
constexpr size_t kMaxLabels = 8;
constexpr size_t kMaxLabelKeyBytes = 32;
constexpr size_t kMaxLabelValueBytes = 64;

absl::StatusOr<std::string> RequestId(const v1::GenerateRequest& proto, const CallFacts& call) {
  absl::Status good = CheckRequestId("request_id", proto.request_id());
  if (!good.ok()) return good;
  if (!proto.request_id().empty()) return proto.request_id();
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

absl::Status ParseTextPrompt(const v1::GenerateRequest& proto, GenerationSpec& spec) {
  if (proto.text().empty()) {
    return BadField("text", "EMPTY_PROMPT", "is empty; send at least one character");
  }
  spec.prompt = TextPrompt{.text = proto.text(),
                           .add_bos = proto.has_add_bos() ? proto.add_bos() : true,
                           .parse_special = proto.parse_special()};
  if (proto.has_truncate_prompt_tokens()) {
    const uint32_t most = std::numeric_limits<int32_t>::max();
    spec.truncate_prompt_tokens = static_cast<int>(std::min(proto.truncate_prompt_tokens(), most));
  }
  return absl::OkStatus();
}

// Ids are used as given, so what is to be cut or added is done here and now.
absl::Status ParseIdPrompt(const v1::GenerateRequest& proto, const ServedModel& model,
                           GenerationSpec& spec) {
  const auto& ids = proto.token_ids().ids();
  if (ids.empty()) {
    return BadField("token_ids", "EMPTY_PROMPT", "is empty; send at least one id");
  }
  for (int i = 0; i < ids.size(); ++i) {
    const absl::Status good = CheckTokenId("token_ids.ids", i, ids[i], model.vocab_size);
    if (!good.ok()) return good;
  }
  std::vector<int32_t> prompt;
  if (proto.add_bos()) prompt.push_back(model.bos_id);
  int first = 0;
  if (proto.has_truncate_prompt_tokens()) {
    first = static_cast<int>(
        std::max<int64_t>(0, int64_t{ids.size()} - int64_t{proto.truncate_prompt_tokens()}));
  }
  prompt.insert(prompt.end(), ids.begin() + first, ids.end());
  spec.prompt = std::move(prompt);
  return absl::OkStatus();
}

absl::Status ParsePrompt(const v1::GenerateRequest& proto, const ServedModel& model,
                         GenerationSpec& spec) {
  if (proto.has_truncate_prompt_tokens() && proto.truncate_prompt_tokens() == 0) {
    return BadParameter("truncate_prompt_tokens", "is 0; keep at least 1 token, or leave it unset");
  }
  switch (proto.prompt_case()) {
    case v1::GenerateRequest::kText:
      return ParseTextPrompt(proto, spec);
    case v1::GenerateRequest::kTokenIds:
      return ParseIdPrompt(proto, model, spec);
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return BadField("prompt", "EMPTY_PROMPT", "is missing; set text or token_ids");
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

absl::StatusOr<ParsedRequest> ParseGenerateRequest(const v1::GenerateRequest& proto,
                                                   const ServedModel& model,
                                                   const RequestLimits& limits,
                                                   const CallFacts& call) {
  absl::StatusOr<std::string> request_id = RequestId(proto, call);
  if (!request_id.ok()) return request_id.status();
  ParsedRequest parsed;
  parsed.request_id = *std::move(request_id);
  GenerationSpec& spec = parsed.spec;
  spec.request.client_id = parsed.request_id;
  spec.request.arrival_us = call.arrival_us;
  spec.request.deadline_us = call.deadline_us;
  spec.request.tenant = call.tenant_header.substr(0, kMaxNameBytes);

  absl::Status good = CheckModelName(proto.model(), model);
  const auto also = [&](auto&& check) {  // the first mistake is the one to tell
    if (good.ok()) good = check();
  };
  also([&] { return CheckBytes("idempotency_key", proto.idempotency_key(), kMaxNameBytes); });
  also([&] { return CheckBytes("user", proto.user(), kMaxNameBytes); });
  also([&] { return CheckLabels(proto.labels()); });
  also([&] { return ParsePrompt(proto, model, spec); });
  also([&] { return ParseSampling(proto.sampling(), model, limits, call.random_seed, spec); });
  also([&] { return ParseOutput(proto.output(), spec, parsed.report); });
  also([&] { return ParseStopping(proto.stopping(), model, spec); });
  also([&] { return ParseScheduling(proto.scheduling(), limits, spec); });
  also([&] { return CheckSpeculative(proto.speculative()); });
  also([&] { return CheckCache(proto.cache()); });
  if (proto.has_guided()) also([&] { return CheckGuided(proto.guided()); });
  // A stream cannot be attached to, so there the key has no meaning.
  if (!proto.idempotency_key().empty() && !call.streaming) {
    also([&] { return Unsupported("idempotency_key"); });
  }
  if (!good.ok()) return good;
  return parsed;
}

}  // namespace tandem::server
