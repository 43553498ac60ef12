#include "server/chat/chat_tokens.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

namespace tandem::server {
namespace {

// gemma4.md 4.1.
constexpr std::string_view kControlPieces[] = {"<pad>",
                                               "<eos>",
                                               "<bos>",
                                               "<unk>",
                                               "<mask>",
                                               "<|tool>",
                                               "<tool|>",
                                               "<|tool_call>",
                                               "<tool_call|>",
                                               "<|tool_response>",
                                               "<tool_response|>",
                                               "<|\"|>",
                                               "<|think|>",
                                               "<|channel>",
                                               "<channel|>",
                                               "<|turn>",
                                               "<turn|>",
                                               "<|image>",
                                               "<|audio>",
                                               "<|image|>",
                                               "<|audio|>",
                                               "<image|>",
                                               "<audio|>",
                                               "<|video|>"};

}  // namespace

ChatTokens FindChatTokens(const Vocabulary& vocabulary) {
  const auto find = [&](std::string_view piece) {
    return vocabulary.Find(piece).value_or(ChatTokens::kMissing);
  };
  std::vector<int32_t> all;
  for (const std::string_view piece : kControlPieces) {
    if (const std::optional<int32_t> id = vocabulary.Find(piece)) all.push_back(*id);
  }
  std::sort(all.begin(), all.end());
  return {.eos = find("<eos>"),
          .turn_open = find("<|turn>"),
          .turn_close = find("<turn|>"),
          .channel_open = find("<|channel>"),
          .channel_close = find("<channel|>"),
          .tool_call_open = find("<|tool_call>"),
          .tool_call_close = find("<tool_call|>"),
          .tool_response_open = find("<|tool_response>"),
          .quote = find("<|\"|>"),
          .all = std::move(all)};
}

std::vector<int32_t> StopIds(const ChatTokens& tokens) {
  std::vector<int32_t> ids;
  for (const int32_t id :
       {tokens.eos, tokens.turn_close, tokens.tool_response_open, tokens.turn_open}) {
    if (id != ChatTokens::kMissing) ids.push_back(id);
  }
  return ids;
}

}  // namespace tandem::server
