// A conversation to the text of a prompt, as the model was trained to read it.
//
// In        a ChatPrompt; which of the two templates the checkpoint has.
// Out       text with control tokens spelled out, and where in it the client's own bytes are.
// Not here  tokens (server/text/tokenizer.h); what the model answers (chat_output.h).
// Threads   pure function.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/chat/chat_format.h"
#include "server/chat/chat_messages.h"
#include "server/text/tokenizer.h"

namespace tandem::server {

inline constexpr int kMaxChatMessages = 1024;

struct RenderedChat {
  // Starts with <bos>. To be tokenized with parse_special and the spans below, so that control
  // tokens are recognised only where this function wrote them.
  std::string text;
  std::vector<ByteSpan> client_spans;  // ascending, disjoint, none empty
  bool starts_in_reasoning = false;    // the prompt ends inside an open thought channel
};

// Renders as the July 2026 template does, with the additions of gemma4.md 5.1: a prompt that ends
// with a closed turn gets a new one to answer in. The content of a tool's message is printed as one
// string, JSON or not. With `continue_final_message` the last turn stays open and
// add_generation_prompt counts as false.
//   errors  kInvalidArgument BAD_PARAMETER with the field: "messages" (1 to kMaxChatMessages),
//           "messages[i].role" (system and developer first only; tool only after an assistant's
//           tool call), "messages[i].reasoning", "messages[i].tool_calls",
//           "messages[i].tool_call_id" (of the wrong role), "messages[i].name",
//           "messages[i].tool_calls[j].name", ".arguments_json", "tools[i].name",
//           ".parameters_json", "continue_final_message"
absl::StatusOr<RenderedChat> RenderChat(const ChatPrompt& prompt, const ChatFormat& format);

}  // namespace tandem::server
