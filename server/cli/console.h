// What a command says about its own progress, on standard error: tidy lines for a person, one log
// event each for everything else.
//
//   model   demo  gemma4  bf16  12.0 MiB          model: name=demo architecture=gemma4 bytes=...
//
// Threads   one, but for Note and Warn, which any thread may call.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "server/cli/progress.h"
#include "server/cli/terminal.h"

namespace tandem::server {

class Console {
 public:
  // quiet: elsewhere than on a terminal, only warnings and the progress of a load.
  explicit Console(const Terminal& terminal, bool quiet = false)
      : terminal_(terminal), quiet_(quiet) {}

  // `text` behind the label on a terminal; "label: event" in the log elsewhere.
  void Note(std::string_view label, std::string_view text, std::string_view event) const;
  void Warn(std::string_view text) const;

  // A bar, or log lines, for one load.
  std::unique_ptr<Progress> StartProgress() const;

  const Terminal& terminal() const { return terminal_; }

 private:
  Terminal terminal_;
  bool quiet_;
};

// Seconds on a monotonic clock.
double MonotonicSeconds();

}  // namespace tandem::server
