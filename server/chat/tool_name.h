// What a tool may be called: names that the format, and other programs, can carry.
#pragma once

#include <algorithm>
#include <string_view>

namespace tandem::server {

inline constexpr size_t kMaxToolNameBytes = 64;

// One of A-Z a-z 0-9 _ - .
constexpr bool IsToolNameByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-' || c == '.';
}

constexpr bool IsToolName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxToolNameBytes &&
         std::all_of(name.begin(), name.end(), IsToolNameByte);
}

}  // namespace tandem::server
