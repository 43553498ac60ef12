#include "server/grpc/text_methods.h"

#include <string>
#include <utility>
#include <vector>

#include "server/grpc/chat_parser.h"
#include "server/grpc/params_parser.h"
#include "server/grpc/request_errors.h"
#include "server/grpc/shared_fields.h"
#include "server/text/detokenizer.h"

namespace tandem::server {
namespace {

constexpr size_t kMaxTextBytes = 4 << 20;

struct Input {
  Encoding encoding;
  std::string rendered;  // of a chat
};

absl::StatusOr<Input> EncodeChat(const v1::TokenizeRequest& request, const LoadedModel& model) {
  absl::Status good = CheckModelName(request.chat().model(), model.model);
  if (!good.ok()) return good;
  if (request.has_add_bos() && !request.add_bos()) {
    return BadParameter("add_bos", "is false; a chat starts with one");
  }
  if (request.parse_special()) {
    return BadParameter("parse_special", "is true; what a chat says is never taken for that");
  }
  absl::StatusOr<RenderedChat> chat = RenderChatRequest(request.chat(), model.model);
  if (!chat.ok()) return chat.status();
  Input input;
  input.encoding = model.backend.tokenizer->EncodePrompt(
      chat->text, /*add_bos=*/false, /*parse_special=*/true, chat->client_spans);
  input.rendered = std::move(chat->text);
  return input;
}

absl::StatusOr<Input> Encode(const v1::TokenizeRequest& request, const LoadedModel& model) {
  absl::Status good = CheckModelName(request.model(), model.model);
  if (!good.ok()) return good;
  if (request.has_chat()) return EncodeChat(request, model);
  if (!request.has_text()) return BadParameter("input", "is missing; set text or chat");
  good = CheckBytes("text", request.text(), kMaxTextBytes);
  if (!good.ok()) return good;
  const bool add_bos = request.has_add_bos() ? request.add_bos() : true;
  return Input{.encoding = model.backend.tokenizer->EncodePrompt(request.text(), add_bos,
                                                                 request.parse_special()),
               .rendered = {}};
}

}  // namespace

absl::StatusOr<v1::TokenizeResponse> TokenizeText(const v1::TokenizeRequest& request,
                                                  const LoadedModel& model) {
  absl::StatusOr<Input> input = Encode(request, model);
  if (!input.ok()) return input.status();
  const Encoding& encoding = input->encoding;
  v1::TokenizeResponse answer;
  answer.mutable_token_ids()->Add(encoding.ids.begin(), encoding.ids.end());
  answer.set_count(static_cast<uint32_t>(encoding.ids.size()));
  answer.set_max_prompt_tokens(static_cast<uint32_t>(model.model.max_prompt_tokens));
  answer.set_rendered_prompt(std::move(input->rendered));
  if (request.offsets()) {
    answer.mutable_byte_offsets()->Add(encoding.byte_offsets.begin(), encoding.byte_offsets.end());
  }
  if (request.token_bytes()) {
    const Vocabulary& vocabulary = model.backend.tokenizer->vocabulary();
    for (const int32_t id : encoding.ids) {
      answer.add_token_bytes(std::string(vocabulary.Bytes(id)));
    }
  }
  return answer;
}

absl::StatusOr<v1::CountTokensResponse> CountTextTokens(const v1::TokenizeRequest& request,
                                                        const LoadedModel& model) {
  const absl::StatusOr<Input> input = Encode(request, model);
  if (!input.ok()) return input.status();
  v1::CountTokensResponse answer;
  answer.set_count(static_cast<uint32_t>(input->encoding.ids.size()));
  answer.set_max_prompt_tokens(static_cast<uint32_t>(model.model.max_prompt_tokens));
  return answer;
}

absl::StatusOr<v1::DetokenizeResponse> DetokenizeIds(const v1::DetokenizeRequest& request,
                                                     const LoadedModel& model) {
  absl::Status good = CheckModelName(request.model(), model.model);
  if (!good.ok()) return good;
  std::vector<int32_t> ids;
  ids.reserve(request.token_ids_size());
  for (int i = 0; i < request.token_ids_size(); ++i) {
    good = CheckTokenId("token_ids", i, request.token_ids(i), model.model.vocab_size);
    if (!good.ok()) return good;
    ids.push_back(static_cast<int32_t>(request.token_ids(i)));
  }
  const bool skip = request.has_skip_special_tokens() ? request.skip_special_tokens() : true;
  v1::DetokenizeResponse answer;
  answer.set_text(Decode(*model.backend.tokenizer, ids, skip));
  return answer;
}

}  // namespace tandem::server
