// A plain prompt as the user's turn of a chat (gemma4.md 5.1).
#pragma once

#include <string>
#include <string_view>

namespace tandem::server {

// What an instruct model is to continue: the user's turn with `text` trimmed, then the start of the
// model's own. The control tokens are meant as such (TextPrompt::parse_special), and those that
// `text` may contain are not told apart from them: for a person's own text, not for that of
// clients.
//   empty_thought  the larger models are given an empty thought channel, or they open one
std::string UserTurn(std::string_view text, bool empty_thought);

}  // namespace tandem::server
