#include "server/cli/chat_text.h"

#include "server/cli/chat_repl.h"

namespace tandem::server {
namespace {

constexpr std::string_view kWaiting = "...";
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

}  // namespace

std::string Dimmed(std::string_view text, bool colors) {
  return colors ? "\033[2m" + std::string(text) + "\033[0m" : std::string(text);
}

std::string TerminalSafe(std::string_view text) {
  std::string safe;
  for (size_t i = 0; i < text.size(); ++i) {
    const unsigned char byte = text[i];
    const unsigned char next = i + 1 < text.size() ? text[i + 1] : 0;
    if (byte == 0xC2 && next >= 0x80 && next < 0xA0) {  // U+0080 to U+009F
      safe += kReplacement;
      ++i;
    } else if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F) {
      safe += kReplacement;
    } else {
      safe += text[i];
    }
  }
  return safe;
}

AnswerWriter::AnswerWriter(const ChatIo& io) : io_(io) {
  if (!io_.interactive || !io_.colors) return;
  io_.write(Dimmed(kWaiting, true));
  waiting_ = true;
}

void AnswerWriter::Write(const AnswerPiece& piece) {
  if (waiting_ && !(piece.reasoning.empty() && piece.content.empty())) {
    io_.write("\r\033[K");
    waiting_ = false;
  }
  if (!piece.reasoning.empty() && io_.interactive) {
    thinking_ = true;
    Show(piece.reasoning, /*dim=*/true);
  }
  if (piece.content.empty()) return;
  if (thinking_) {
    thinking_ = false;
    Show(last_ == '\n' ? "\n" : "\n\n", /*dim=*/false);
  }
  Show(piece.content, /*dim=*/false);
}

void AnswerWriter::Finish() {
  if (waiting_) io_.write("\r\033[K");
  waiting_ = false;
  if (last_ != '\n') io_.write("\n");
  last_ = '\n';
}

void AnswerWriter::Show(std::string_view text, bool dim) {
  last_ = text.back();
  if (!io_.interactive) {
    io_.write(text);
    return;
  }
  const std::string safe = TerminalSafe(text);
  io_.write(dim ? Dimmed(safe, io_.colors) : safe);
}

}  // namespace tandem::server
