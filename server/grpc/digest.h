// SHA-256 in hex digits, shortened where a few of them tell things apart.
#pragma once

#include <string>
#include <string_view>

namespace tandem::server {

std::string Sha256Hex(std::string_view text);  // 64 digits
// The first 16 hex digits of SHA-256 over `text`.
std::string ShortDigest(std::string_view text);

}  // namespace tandem::server
