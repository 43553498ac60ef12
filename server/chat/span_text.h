// Text under construction that remembers which of its bytes a client wrote.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/text/tokenizer.h"

namespace tandem::server {

class SpanText {
 public:
  // Ours: control tokens in it are meant.
  void Literal(std::string_view text) { text_ += text; }
  // Theirs: nothing in it is a control token.
  void Client(std::string_view text);
  // Theirs, as a string value of the format: between two quote tokens.
  void ClientString(std::string_view text);

  const std::string& text() const { return text_; }
  const std::vector<ByteSpan>& client_spans() const { return client_spans_; }

 private:
  std::string text_;
  std::vector<ByteSpan> client_spans_;
};

// `text` without the white space at its ends that Python's str.strip() removes.
std::string_view PythonStrip(std::string_view text);

}  // namespace tandem::server
