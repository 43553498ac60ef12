// UTF-8 as the text layer sees it: which bytes form a character, and what stands in for those that
// do not.
//
// In        bytes from clients, from byte tokens.
// Out       sequence lengths, code points, text that is valid UTF-8 and fit to print.
// Not here  normalisation; Gemma 4 has none but the space (tokenizer.h).
// Threads   pure functions.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tandem::server {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

enum class Utf8State { kComplete, kIncomplete, kInvalid };

struct Utf8Prefix {
  Utf8State state;
  int length;  // bytes of the character at the front when complete, else 0
};

// Classifies the front of `bytes` (not empty): a whole character, the start of one that more bytes
// could complete, or a byte that starts nothing. Surrogates, overlong forms and code points above
// U+10FFFF are invalid from the first byte that makes them so (Unicode 15, table 3-7).
Utf8Prefix ClassifyUtf8(std::string_view bytes);

// The code point whose `length` bytes (1..4, from ClassifyUtf8) start at `bytes`.
char32_t DecodeCodePoint(const char* bytes, int length);

bool IsValidUtf8(std::string_view text);

// `text` with every byte that belongs to no valid character replaced by one U+FFFD.
std::string SanitizeUtf8(std::string_view text);

// `text` for an error message: in quotes, control characters escaped, cut after 80 bytes, UTF-8.
std::string Quoted(std::string_view text);

}  // namespace tandem::server
