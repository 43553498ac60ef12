// `tandem bench serve` without --connect: a server of its own in this process, and the same
// requests once through the Generator and once through gRPC in front of it, to show what gRPC
// costs.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/cli/bench_serve_run.h"
#include "server/cli/console.h"
#include "server/config/settings.h"

namespace tandem::server {

// Loads the model, measures and prints the report.
//   returns  the exit status
absl::StatusOr<int> BenchOwnServer(const Settings& settings, const Console& console,
                                   Interruption& interruption, const std::string& command_line);

}  // namespace tandem::server
