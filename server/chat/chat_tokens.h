// The control tokens of the chat format, found in a vocabulary by their text.
#pragma once

#include <cstdint>
#include <vector>

#include "server/text/vocabulary.h"

namespace tandem::server {

struct ChatTokens {
  static constexpr int32_t kMissing = -1;  // a vocabulary without it; equals no token's id

  int32_t eos = kMissing;                 // <eos>
  int32_t turn_open = kMissing;           // <|turn>
  int32_t turn_close = kMissing;          // <turn|>
  int32_t channel_open = kMissing;        // <|channel>
  int32_t channel_close = kMissing;       // <channel|>
  int32_t tool_call_open = kMissing;      // <|tool_call>
  int32_t tool_call_close = kMissing;     // <tool_call|>
  int32_t tool_response_open = kMissing;  // <|tool_response>
  int32_t quote = kMissing;               // <|"|>
  std::vector<int32_t> all;               // every control token there is, media included; ascending
};

ChatTokens FindChatTokens(const Vocabulary& vocabulary);

// Those that end an answer wherever they come: <eos>, <turn|>, <|tool_response>, and <|turn>, with
// which the model would speak for somebody else.
std::vector<int32_t> StopIds(const ChatTokens& tokens);

}  // namespace tandem::server
