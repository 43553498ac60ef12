// The commands. What they say about their progress goes to `terminal`, standard error. Each runs to
// its end; an error is printed by main and ends the program with 1.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/cublaslt.h"
#include "server/cli/terminal.h"
#include "server/config/settings.h"

namespace tandem::server {

// Serves until SIGTERM or SIGINT, then drains. A second signal ends what still runs.
absl::Status Serve(const Settings& settings, const Terminal& terminal);

// Talks to a model, or with --connect to a server. `screen` is standard output's terminal.
//   returns  the exit status: 0, 1 when a message from a pipe had no answer, or 128 and the signal
//            that ended it
absl::StatusOr<int> Chat(const Settings& settings, const Terminal& progress,
                         const Terminal& screen);

// Answers one prompt on standard output. A signal ends the answer.
//   returns  the exit status: 0, or 130 when a signal ended it
absl::StatusOr<int> RunOnce(const Settings& settings, const Terminal& terminal);

absl::Status Inspect(const Settings& settings);

// Looks at everything that `tandem serve` with these settings will want. `terminal` is standard
// output's, `libraries` where the environment says that CUDA's are.
//   returns  the exit status: 1 when something would keep it from serving
int Doctor(const Settings& settings, const Terminal& terminal,
           const kernels::CudaLibraryDirs& libraries);

// Asks a server's health service.
//   returns  the exit status: 0 when it is serving, 1 when not; an error when it can not be asked
absl::StatusOr<int> Health(const Settings& settings);

// `command_line` is what was typed, for the report.
absl::Status BenchModel(const Settings& settings, const Terminal& terminal,
                        const std::string& command_line);

// Answers prompts and reports what became of drafts. `command_line` as above.
absl::Status BenchAccept(const Settings& settings, const Terminal& terminal,
                         const std::string& command_line);

// Measures what KV formats save and cost, without a checkpoint. `command_line` as above.
absl::Status BenchKv(const Settings& settings, const Terminal& terminal,
                     const std::string& command_line);

// Measures operations of the backend one by one, without a checkpoint. `command_line` as above.
absl::Status BenchKernels(const Settings& settings, const Terminal& terminal,
                          const std::string& command_line);

// Measures how far KV formats move what a model says. `command_line` as above.
absl::Status BenchKvQuality(const Settings& settings, const Terminal& terminal,
                            const std::string& command_line);

// Measures a server under load and prints the report. A signal ends the run; what has finished is
// reported.
//   returns  the exit status: 0; 1 when no request succeeded or the server was lost; 130 when a
//            signal ended it
absl::StatusOr<int> BenchServe(const Settings& settings, const Terminal& terminal,
                               const std::string& command_line);

}  // namespace tandem::server
