// When a choice ends by itself (grpc-surface 2.6), but for stop strings, which server/ finds.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "engine/sampling.h"
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

// How much of a run of tokens drawn in one step a choice is sent: all, or up to (and with) the
// first that ends it. What follows a stop does not exist.
struct SentRun {
  int tokens = 0;
  std::optional<FinishReason> reason;
};
//   output_tokens, known_tokens  before the run
SentRun ScanRun(const StopParams& stop, std::span<const engine::SampledToken> run,
                int output_tokens, int known_tokens, int max_known);

// Whether stops may not be drawn as the next token.
bool StopsMasked(const StopParams& stop, int output_tokens);

}  // namespace tandem::scheduler
