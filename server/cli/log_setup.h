// Where log lines go, and what they look like: text for people, JSON lines for collectors.
#pragma once

#include <spdlog/formatter.h>

#include <memory>
#include <string_view>

#include "server/cli/terminal.h"

namespace tandem::server {

// One JSON object per line: ts (RFC 3339, UTC, ms), level, logger, msg. Every byte of the message
// is escaped; what is not UTF-8 becomes U+FFFD.
std::unique_ptr<spdlog::formatter> MakeJsonFormatter();

// The default logger, on standard error, synchronously.
//   format  "auto" (text on a terminal, JSON elsewhere), "text", "json"
//   level   "debug", "info", "warn", "error"
void SetUpLogging(std::string_view format, std::string_view level, const Terminal& terminal);

}  // namespace tandem::server
