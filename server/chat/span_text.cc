#include "server/chat/span_text.h"

#include "server/text/utf8.h"

namespace tandem::server {
namespace {

bool IsPythonSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

// Bytes of the space that `text` starts with; 0 when it starts with something else.
size_t SpaceAtFront(std::string_view text) {
  const Utf8Prefix front = ClassifyUtf8(text);
  if (front.state != Utf8State::kComplete) return 0;
  return IsPythonSpace(DecodeCodePoint(text.data(), front.length)) ? front.length : 0;
}

}  // namespace

void SpanText::Client(std::string_view text) {
  if (text.empty()) return;
  const size_t begin = text_.size();
  text_ += text;
  if (!client_spans_.empty() && client_spans_.back().end == begin) {
    client_spans_.back().end = text_.size();
  } else {
    client_spans_.push_back({.begin = begin, .end = text_.size()});
  }
}

void SpanText::ClientString(std::string_view text) {
  Literal("<|\"|>");
  Client(text);
  Literal("<|\"|>");
}

std::string_view PythonStrip(std::string_view text) {
  while (!text.empty()) {
    const size_t space = SpaceAtFront(text);
    if (space == 0) break;
    text.remove_prefix(space);
  }
  while (!text.empty()) {
    size_t start = text.size() - 1;  // of the last character
    while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
    if (SpaceAtFront(text.substr(start)) != text.size() - start) break;
    text = text.substr(0, start);
  }
  return text;
}

}  // namespace tandem::server
