#include "scheduler/stop_rules.h"

#include <algorithm>
#include <vector>

namespace tandem::scheduler {

std::optional<FinishReason> StopReason(const StopParams& stop, int32_t token, int output_tokens,
                                       int known_tokens, int max_known) {
  const auto among = [token](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  if (among(stop.stop_ids)) return FinishReason::kStopToken;
  if (among(stop.eos_ids)) return FinishReason::kStopEos;
  if (output_tokens >= stop.max_tokens) return FinishReason::kMaxTokens;
  if (known_tokens >= max_known) return FinishReason::kContextLength;
  return std::nullopt;
}

SentRun ScanRun(const StopParams& stop, std::span<const engine::SampledToken> run,
                int output_tokens, int known_tokens, int max_known) {
  SentRun sent;
  for (const engine::SampledToken& token : run) {
    ++sent.tokens;
    sent.reason = StopReason(stop, token.id, output_tokens + sent.tokens,
                             known_tokens + sent.tokens, max_known);
    if (sent.reason.has_value()) break;
  }
  return sent;
}

bool StopsMasked(const StopParams& stop, int output_tokens) {
  return output_tokens < stop.min_tokens;
}

}  // namespace tandem::scheduler
