// The conversation of `tandem chat`: what was said so far, and how it is kept within the context.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/chat/chat_messages.h"

namespace tandem::server {

struct Conversation {
  std::string system;              // what the model is told first; empty: nothing
  std::vector<ChatMessage> turns;  // of user and assistant
};

// The whole of it, as a backend takes it.
std::vector<ChatMessage> MessagesOf(const Conversation& conversation);

// Forgets the oldest turns until at most `keep` (0..1) of their bytes are left. At least one
// exchange goes; the last message stays, and what is left begins with a message of the user.
//   returns  how many messages went; 0 when only the last one was there
size_t CutOldest(Conversation& conversation, double keep);

// {"messages": [{"role": "user", "content": "..."}, ...]}; an assistant may have "reasoning".
std::string ConversationJson(const Conversation& conversation);
//   errors  kInvalidArgument with what is wrong and where: "messages[3].role is ..."
absl::StatusOr<Conversation> ParseConversation(std::string_view json);

// The same to and from a file. An existing file is replaced.
//   errors  kNotFound, kUnavailable or kInvalidArgument; all name the file
absl::Status SaveConversation(const Conversation& conversation, const std::string& path);
absl::StatusOr<Conversation> LoadConversation(const std::string& path);

}  // namespace tandem::server
