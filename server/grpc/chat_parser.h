// ChatRequest to a prompt and a GenerationSpec (grpc-surface 2.11).
//
// Not here  which conversations the model can read, and their text (server/chat/render_chat.h);
//           the fields shared with GenerateRequest (shared_fields.h).
// Threads   pure functions.
#pragma once

#include "absl/status/statusor.h"
#include "server/chat/render_chat.h"
#include "server/grpc/shared_fields.h"
#include "tandem/v1/chat.pb.h"

namespace tandem::server {

// The conversation as the chat template has it: what Chat answers and Tokenize counts.
//   errors  kInvalidArgument BAD_PARAMETER with a field path such as "messages[3].parts[0]", from
//           here or from RenderChat; kUnimplemented FEATURE_UNSUPPORTED for images, audio and
//           forced tool calls
absl::StatusOr<RenderedChat> RenderChatRequest(const v1::ChatRequest& proto,
                                               const ServedModel& model);

//   errors  as RenderChatRequest and ParseSharedFields
absl::StatusOr<ParsedRequest> ParseChatRequest(const v1::ChatRequest& proto,
                                               const ServedModel& model,
                                               const RequestLimits& limits, const CallFacts& call);

}  // namespace tandem::server
