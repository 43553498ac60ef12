// What a busy server says about itself every ten seconds.
#pragma once

#include <optional>
#include <string>

#include "scheduler/stats.h"

namespace tandem::server {

struct StatusLine {
  // "in 512.0 tok/s  out 24.1 tok/s  running 4  waiting 2  KV 18 %", and if drafts were verified
  // "  drafts held 81/64/40 %  2.3 tok/round": by position in the draft, and over all rounds.
  std::string text;
  std::string event;  // "prompt_tok_per_s=512.0 ..."
};

// Rates between two snapshots `seconds` apart; nullopt when nothing ran and nothing waits.
std::optional<StatusLine> MakeStatusLine(const scheduler::SchedulerStats& before,
                                         const scheduler::SchedulerStats& now, double seconds);

}  // namespace tandem::server
