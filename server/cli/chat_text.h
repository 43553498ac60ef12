// How an answer looks while it comes: thoughts dimmed before what is said.
#pragma once

#include <string>
#include <string_view>

#include "server/cli/chat_backend.h"

namespace tandem::server {

struct ChatIo;

// `text` in the terminal's faint colour, or as it is.
std::string Dimmed(std::string_view text, bool colors);

// `text` without what would steer a terminal: control characters but line feed and tab become
// U+FFFD.
std::string TerminalSafe(std::string_view text);

// Writes one answer. A person sees the thoughts, dimmed, and a sign that there is none yet;
// elsewhere there is only what is said, and a line's end.
class AnswerWriter {
 public:
  // Shows that an answer is awaited. `io` outlives the writer.
  explicit AnswerWriter(const ChatIo& io);
  void Write(const AnswerPiece& piece);
  // Ends the last line.
  void Finish();

 private:
  void Show(std::string_view text, bool dim);

  const ChatIo& io_;
  bool waiting_ = false;  // the sign is on the screen
  bool thinking_ = false;
  char last_ = '\n';  // character that was written
};

}  // namespace tandem::server
