#include "server/text/utf8.h"

#include <algorithm>

#include "absl/strings/escaping.h"

namespace tandem::server {
namespace {

struct SequenceRule {
  int length;               // 0: the byte starts nothing
  unsigned char low, high;  // range of the second byte; later ones are 80..BF
};

constexpr SequenceRule RuleOf(unsigned char lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Prefix ClassifyUtf8(std::string_view bytes) {
  const SequenceRule rule = RuleOf(static_cast<unsigned char>(bytes[0]));
  if (rule.length == 0) return {Utf8State::kInvalid, 0};
  const int present = static_cast<int>(std::min<size_t>(rule.length, bytes.size()));
  for (int i = 1; i < present; ++i) {
    const auto byte = static_cast<unsigned char>(bytes[i]);
    const bool fits = i == 1 ? byte >= rule.low && byte <= rule.high : byte >= 0x80 && byte <= 0xBF;
    if (!fits) return {Utf8State::kInvalid, 0};
  }
  if (present < rule.length) return {Utf8State::kIncomplete, 0};
  return {Utf8State::kComplete, rule.length};
}

char32_t DecodeCodePoint(const char* bytes, int length) {
  constexpr unsigned char kLeadMask[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
  char32_t code_point = static_cast<unsigned char>(bytes[0]) & kLeadMask[length];
  for (int i = 1; i < length; ++i) {
    code_point = (code_point << 6) | (static_cast<unsigned char>(bytes[i]) & 0x3F);
  }
  return code_point;
}

bool IsValidUtf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Prefix front = ClassifyUtf8(text);
    if (front.state != Utf8State::kComplete) return false;
    text.remove_prefix(front.length);
  }
  return true;
}

std::string SanitizeUtf8(std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  while (!text.empty()) {
    const Utf8Prefix front = ClassifyUtf8(text);
    if (front.state == Utf8State::kComplete) {
      clean.append(text.substr(0, front.length));
      text.remove_prefix(front.length);
    } else {
      clean.append(kReplacementCharacter);
      text.remove_prefix(1);
    }
  }
  return clean;
}

std::string Quoted(std::string_view text) {
  constexpr size_t kLongest = 80;
  const bool cut = text.size() > kLongest;
  const std::string shown = SanitizeUtf8(text.substr(0, kLongest));
  return '"' + absl::Utf8SafeCEscape(shown) + (cut ? "...\"" : "\"");
}

}  // namespace tandem::server
