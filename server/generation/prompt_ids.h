// A prompt as the client sent it, checked and turned into token ids.
//
// In        a GenerationSpec's prompt; the model's vocabulary and context.
// Out       ids the scheduler may run, or the status that tells the client what to change.
// Not here  whether the KV pools can hold them (scheduler/).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "server/generation/generator.h"

namespace tandem::server {

// Tokenizes text, cuts to truncate_prompt_tokens, checks length and ids (grpc-surface 2.4).
//   errors  kInvalidArgument with a reason and the field "prompt" (of a chat "messages"),
//           "token_ids", "token_ids[i]" or "truncate_prompt_tokens":
//           BAD_PARAMETER    text is not UTF-8 or above max_prompt_bytes; nothing would be kept
//           EMPTY_PROMPT     no character, or no id
//           BAD_TOKEN_ID     outside the vocabulary, or a media token
//           PROMPT_TOO_LONG  {prompt_tokens, max_prompt_tokens}
absl::StatusOr<std::vector<int32_t>> PromptIdsOf(const GenerationSpec& spec,
                                                 const GeneratorConfig& config,
                                                 const ModelText& model);

}  // namespace tandem::server
