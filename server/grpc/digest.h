// SHA-256, shortened where a few digits tell things apart.
#pragma once

#include <string>
#include <string_view>

namespace tandem::server {

// The first 16 hex digits of SHA-256 over `text`.
std::string ShortDigest(std::string_view text);

}  // namespace tandem::server
