// Names for requests that came without one, and whether a given name will do.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tandem::server {

// 0..128 bytes of [!-~].
absl::Status CheckRequestId(std::string_view field, std::string_view id);

// A UUID of version 7 (RFC 9562): sorts by time.
//   unix_ms   milliseconds since 1970, 48 bits
//   random    74 of these bits are used
std::string FormatUuidV7(int64_t unix_ms, uint64_t random_high, uint64_t random_low);

// FormatUuidV7 of now.
std::string NewRequestId();

uint64_t RandomBits();

}  // namespace tandem::server
