// The loop of `tandem chat`: read a message or a command, answer it, remember it.
//
// In        lines from a ChatIo, answers from a ChatBackend.
// Out       answers and remarks through the same ChatIo.
// Not here  the terminal (chat_terminal.h), signals (chat_verb.cc).
// Threads   one; answers are written on the backend's while RunChat waits for them.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "server/cli/chat_backend.h"
#include "server/cli/chat_conversation.h"

namespace tandem::server {

struct ChatLine {
  enum class Kind {
    kText,
    kInterrupted,  // Ctrl-C instead of a line
    kEnd,          // no more lines
  };
  Kind kind = Kind::kEnd;
  std::string text;  // without the line's end
};

struct ChatIo {
  bool interactive = false;  // a person: prompts, remarks, statistics; otherwise answers alone
  bool colors = false;
  std::function<ChatLine(std::string_view prompt)> read;
  std::function<void(std::string_view)> write;  // answers and what commands show
  std::function<void(std::string_view)> fail;   // one line about an error
};

// Runs until the end of the input or /quit. Elsewhere than in a terminal every line is a message or
// a command of its own, and the first error ends it.
//   returns  the exit status
int RunChat(const ChatBackend& backend, const ChatIo& io, Conversation conversation,
            ChatSettings settings);

}  // namespace tandem::server
