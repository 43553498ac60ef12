#include "server/chat/chat_format.h"

namespace tandem::server {

ChatFormat ChatFormatOf(std::optional<std::string_view> template_source, int ple_width) {
  // As written in the source: a backslash and an n.
  constexpr std::string_view kEmptyThought = R"(<|channel>thought\n<channel|>)";
  if (template_source.has_value()) {
    return {.empty_thought = template_source->find(kEmptyThought) != std::string_view::npos};
  }
  return {.empty_thought = ple_width == 0};
}

}  // namespace tandem::server
