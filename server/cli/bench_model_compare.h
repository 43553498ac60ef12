// `tandem bench model --compare`.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "server/cli/console.h"
#include "server/config/settings.h"

namespace tandem::server {

// Measures the two sides and prints the report.
//   errors  also Internal when drafts changed a text
absl::Status BenchModelPairs(const Settings& settings, const Console& console,
                             const std::string& command_line);

}  // namespace tandem::server
