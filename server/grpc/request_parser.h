// GenerateRequest to GenerationSpec, every rule of grpc-surface 2.3 to 2.10 applied.
//
// Not here  the prompt's length and media tokens, which need the tokenizer (Generator); whether the
//           request id is taken (active_calls.h); chats (chat_parser.h).
// Threads   pure functions.
#pragma once

#include "absl/status/statusor.h"
#include "server/grpc/shared_fields.h"
#include "tandem/v1/generate.pb.h"

namespace tandem::server {

//   errors  as ParseSharedFields; kInvalidArgument EMPTY_PROMPT
absl::StatusOr<ParsedRequest> ParseGenerateRequest(const v1::GenerateRequest& proto,
                                                   const ServedModel& model,
                                                   const RequestLimits& limits,
                                                   const CallFacts& call);

}  // namespace tandem::server
