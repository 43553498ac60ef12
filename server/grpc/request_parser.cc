#include "server/grpc/request_parser.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/grpc/request_errors.h"

namespace tandem::server {
namespace {

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

absl::StatusOr<ParsedRequest> ParseGenerateRequest(const v1::GenerateRequest& proto,
                                                   const ServedModel& model,
                                                   const RequestLimits& limits,
                                                   const CallFacts& call) {
  return ParseSharedFields(proto, model, limits, call,
                           [&](GenerationSpec& spec) { return ParsePrompt(proto, model, spec); });
}

}  // namespace tandem::server
