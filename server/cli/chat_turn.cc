#include "server/cli/chat_turn.h"

namespace tandem::server {

std::string UserTurn(std::string_view text, bool empty_thought) {
  constexpr std::string_view kBlanks = " \t\n\v\f\r";
  const size_t begin = text.find_first_not_of(kBlanks);
  const size_t end = text.find_last_not_of(kBlanks);
  if (begin == std::string_view::npos)
    text = {};
  else
    text = text.substr(begin, end - begin + 1);
  std::string turn = "<bos><|turn>user\n" + std::string(text) + "<turn|>\n<|turn>model\n";
  if (empty_thought) turn += "<|channel>thought\n<channel|>";
  return turn;
}

}  // namespace tandem::server
