// Tools in the model's own notation: declarations, calls, responses (gemma4.md 5.2).
//
// In        names, descriptions, JSON that has been read.
// Out       their text, appended; everything that came from the client marked as such.
// Not here  where in a conversation they stand (render_chat.h); reading the model's calls
//           (tool_call_parser.h).
#pragma once

#include <string_view>

#include "server/chat/json_value.h"
#include "server/chat/span_text.h"

namespace tandem::server {

// <|tool>declaration:NAME{...}<tool|>. `parameters` is a JSON Schema; null or without members:
// none. Where the official template would print Python's spelling of a list or leave a brace open,
// this prints what it means: a `type` that is a list is its first entry other than "null", and
// nullable if it has that one; a schema without a type at its top is an OBJECT.
void AppendDeclaration(std::string_view name, std::string_view description,
                       const JsonValue& parameters, SpanText& out);

// <|tool_call>call:NAME{key:VALUE,...}<tool_call|>. `arguments` is an object, or null for none.
void AppendCall(std::string_view name, const JsonValue& arguments, SpanText& out);

// <|tool_response>response:NAME{value:"content"}<tool_response|>
void AppendResponse(std::string_view name, std::string_view content, SpanText& out);

}  // namespace tandem::server
