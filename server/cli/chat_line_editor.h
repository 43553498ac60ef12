// Lines that a person types in a terminal, with libedit's keys and history.
//
// Threads   Read from one thread; Wake and Leave from any, signal watchers included.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "server/cli/chat_repl.h"

namespace tandem::server {

class ChatLineEditor {
 public:
  // Edits standard input and output, which are a terminal.
  ChatLineEditor();
  ~ChatLineEditor();
  ChatLineEditor(const ChatLineEditor&) = delete;
  ChatLineEditor& operator=(const ChatLineEditor&) = delete;

  // The next line; what is not blank goes into the history. The terminal is as it was before when
  // this returns.
  ChatLine Read(std::string_view prompt);

  // Ends a Read that is waiting, with kInterrupted.
  void Wake();
  // Ends this and every further Read with kEnd.
  void Leave();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::server
