// An answer taken apart, token by token: what is said, what is thought, which tools are called.
//
// In        the token ids of one answer, in order.
// Out       pieces of text, each of one channel, and whole tool calls.
// Not here  stop strings, deltas (server/generation/choice_stream.h); which ids end an answer
//           (chat_tokens.h).
// Threads   one stream each.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/chat/chat_tokens.h"
#include "server/chat/tool_call_parser.h"
#include "server/text/detokenizer.h"
#include "server/text/tokenizer.h"

namespace tandem::server {

// How the answer to a chat is shown; see GenerationSpec.
struct ChatOutputRules {
  bool starts_in_reasoning = false;  // RenderedChat
  bool separate_reasoning = false;   // false: what is thought is part of what is said
};

struct ChatPiece {
  enum class Channel { kContent, kReasoning, kToolCall };
  Channel channel = Channel::kContent;
  std::string text;     // of the first two; never empty
  ParsedToolCall call;  // of the third
};

// The state machine of gemma4.md 5.3, driven by ids and never by text: only tokens open a channel
// or a call, and a client that sees "<|channel>" as content knows that the model spelled it. Text
// comes in whole characters; half of one that a control token cuts off gives U+FFFD. Nothing but
// control tokens and the name of a channel is lost: a call that is not understood, or not closed,
// is content, spelled as the model wrote it.
class ChatOutput {
 public:
  // `tokenizer` outlives the stream.
  ChatOutput(const Tokenizer& tokenizer, bool starts_in_reasoning, bool skip_special_tokens);

  // What `id` makes certain. Ids that end answers count as special tokens without meaning.
  std::vector<ChatPiece> Push(int32_t id);

  // Ends the stream: what waits for more tokens.
  std::vector<ChatPiece> Finish();

  // Whether an answer that ends with `id` does so for the result of a tool.
  bool WaitsForTool(int32_t id) const {
    return id == tokens_.tool_response_open && id != ChatTokens::kMissing;
  }

 private:
  enum class State { kContent, kChannelName, kReasoning, kToolCall };

  // Takes text that belongs to the present state.
  void Take(std::string text, std::vector<ChatPiece>& out);
  // Completes the half character that `state_` waits for, then what it has collected.
  void LeaveState(std::vector<ChatPiece>& out);
  void EndToolCall(std::string_view closing, std::vector<ChatPiece>& out);

  const Tokenizer* tokenizer_;
  ChatTokens tokens_;
  StreamDetokenizer detokenizer_;
  bool skip_special_tokens_;
  State state_;
  std::string collected_;  // kChannelName: the name so far; kToolCall: the call so far
};

}  // namespace tandem::server
