// A tool call in the model's notation, read back into JSON.
//
// In        the text between <|tool_call> and <tool_call|>, quote tokens marked.
// Out       the tool's name and its arguments as a JSON object.
// Not here  finding the call in the answer (chat_output.h).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tandem::server {

// Stands for the token <|"|>. Not part of any UTF-8 text, so that a model that spells the token in
// ordinary characters does not end a string.
inline constexpr char kQuoteMark = '\xFF';

struct ParsedToolCall {
  std::string name;
  std::string arguments_json;  // an object, keys in the order of the call
};

// Reads "call:NAME{key:VALUE,...}" (gemma4.md 5.2). Keys may stand between quote marks, and white
// space around punctuation is passed over. Names are those that RenderChat accepts, so that what
// this returns can be sent back.
//   text     valid UTF-8 but for the quote marks
//   returns  nothing when `text` is anything else: other grammar, a key twice in an object, values
//            nested deeper than kMaxJsonDepth
std::optional<ParsedToolCall> ParseToolCall(std::string_view text);

}  // namespace tandem::server
