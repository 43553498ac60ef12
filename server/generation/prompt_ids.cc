#include "server/generation/prompt_ids.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/status_reason.h"
#include "server/text/utf8.h"

namespace tandem::server {
namespace {

absl::Status Refuse(const std::string& message, const char* reason, std::string field,
                    std::map<std::string, std::string> metadata = {}) {
  return WithReason(absl::InvalidArgumentError(message),
                    {.reason = reason, .metadata = std::move(metadata), .field = std::move(field)});
}

// `field` is what the text was made from.
absl::Status CheckText(const std::string& text, const char* field, int64_t max_bytes) {
  if (text.empty()) {
    return Refuse("prompt is empty; send at least one character, or the id of <bos> alone",
                  "EMPTY_PROMPT", field);
  }
  if (static_cast<int64_t>(text.size()) > max_bytes) {
    return Refuse(absl::StrCat("prompt is ", text.size(), " bytes but at most ", max_bytes,
                               " are accepted; shorten it"),
                  "BAD_PARAMETER", field);
  }
  if (!IsValidUtf8(text)) {
    return Refuse("prompt is not valid UTF-8; send Unicode text or token_ids", "BAD_PARAMETER",
                  field);
  }
  return absl::OkStatus();
}

// `field` names where id i came from.
template <typename Field>
absl::Status CheckIds(const std::vector<int32_t>& ids, const ModelText& model, Field field) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= model.vocab_size) {
      return Refuse(absl::StrCat(field(i), " is ", ids[i], " but the vocabulary has ids 0 to ",
                                 model.vocab_size - 1),
                    "BAD_TOKEN_ID", field(i));
    }
    const auto& media = model.invalid_prompt_ids;
    if (std::find(media.begin(), media.end(), ids[i]) != media.end()) {
      return Refuse(absl::StrCat(field(i), " is ", ids[i],
                                 ", which stands for an image or a sound; only text is accepted"),
                    "BAD_TOKEN_ID", field(i));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> IdsOfText(const TextPrompt& prompt, const char* field,
                                               int64_t max_bytes, const ModelText& model) {
  if (absl::Status status = CheckText(prompt.text, field, max_bytes); !status.ok()) return status;
  std::vector<int32_t> ids =
      model.tokenizer
          ->EncodePrompt(prompt.text, prompt.add_bos, prompt.parse_special, prompt.client_spans)
          .ids;
  if (prompt.parse_special) {
    absl::Status status =
        CheckIds(ids, model, [](size_t i) { return absl::StrCat("prompt token ", i); });
    if (!status.ok())
      return WithReason(status, {.reason = "BAD_TOKEN_ID", .metadata = {}, .field = field});
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> IdsOfList(const std::vector<int32_t>& ids,
                                               const ModelText& model) {
  if (ids.empty()) {
    return Refuse("token_ids is empty; send at least one id", "EMPTY_PROMPT", "token_ids");
  }
  absl::Status status =
      CheckIds(ids, model, [](size_t i) { return absl::StrCat("token_ids[", i, "]"); });
  if (!status.ok()) return status;
  return ids;
}

// Keeps the last `count` ids, and the first one as well when it is the BOS in front of a text.
void Truncate(int count, bool keep_first, std::vector<int32_t>& ids) {
  const size_t begin = keep_first ? 1 : 0;
  if (ids.size() <= begin + count) return;
  ids.erase(ids.begin() + begin, ids.end() - count);
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> PromptIdsOf(const GenerationSpec& spec,
                                                 const GeneratorConfig& config,
                                                 const ModelText& model) {
  const auto* text = std::get_if<TextPrompt>(&spec.prompt);
  const char* text_field = spec.chat.has_value() ? "messages" : "prompt";
  absl::StatusOr<std::vector<int32_t>> ids =
      text != nullptr ? IdsOfText(*text, text_field, config.max_prompt_bytes, model)
                      : IdsOfList(std::get<std::vector<int32_t>>(spec.prompt), model);
  if (!ids.ok()) return ids;

  if (spec.truncate_prompt_tokens.has_value()) {
    const int count = *spec.truncate_prompt_tokens;
    if (count < 1) {
      return Refuse(absl::StrCat("truncate_prompt_tokens is ", count, " but must be at least 1"),
                    "BAD_PARAMETER", "truncate_prompt_tokens");
    }
    Truncate(count, text != nullptr && text->add_bos, *ids);
  }

  const int max_prompt_tokens = config.max_context - 1;  // one position is for the answer
  if (static_cast<int64_t>(ids->size()) > max_prompt_tokens) {
    return Refuse(
        absl::StrCat("the prompt is ", ids->size(), " tokens but at most ", max_prompt_tokens,
                     " fit the context; shorten it or set truncate_prompt_tokens"),
        "PROMPT_TOO_LONG", text != nullptr ? text_field : "token_ids",
        {{"prompt_tokens", absl::StrCat(ids->size())},
         {"max_prompt_tokens", absl::StrCat(max_prompt_tokens)}});
  }
  return ids;
}

}  // namespace tandem::server
