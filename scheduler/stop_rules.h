// When a choice ends by itself (grpc-surface 2.6), but for stop strings, which server/ finds.
#pragma once

#include <cstdint>
#include <optional>

#include "scheduler/request.h"

namespace tandem::scheduler {

// Whether a choice ends with the token just generated.
//   token         the id; min_tokens needs no look here, since earlier stops were masked
//   output_tokens generated so far, this one included
//   known_tokens  prompt and output
//   max_known     MaxSequenceTokens
//   returns       the reason that goes first: kStopToken, kStopEos, kMaxTokens, kContextLength
std::optional<FinishReason> StopReason(const StopParams& stop, int32_t token, int output_tokens,
                                       int known_tokens, int max_known);

// Whether stops may not be drawn as the next token.
bool StopsMasked(const StopParams& stop, int output_tokens);

}  // namespace tandem::scheduler
