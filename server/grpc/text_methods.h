// Tokenize, CountTokens and Detokenize: checks and answers.
//
// Threads   pure functions; they take time in proportion to the text, so they run on the text pool.
#pragma once

#include "absl/status/statusor.h"
#include "server/grpc/service_core.h"
#include "tandem/v1/text.pb.h"

namespace tandem::server {

// Of a text as it is, or of a conversation as Chat would render it.
//   errors  kInvalidArgument: input missing or above 4 MiB; kNotFound: the model; those of
//           RenderChatRequest
absl::StatusOr<v1::TokenizeResponse> TokenizeText(const v1::TokenizeRequest& request,
                                                  const LoadedModel& model);
absl::StatusOr<v1::CountTokensResponse> CountTextTokens(const v1::TokenizeRequest& request,
                                                        const LoadedModel& model);

//   errors  kInvalidArgument BAD_TOKEN_ID; kNotFound: the model
absl::StatusOr<v1::DetokenizeResponse> DetokenizeIds(const v1::DetokenizeRequest& request,
                                                     const LoadedModel& model);

}  // namespace tandem::server
