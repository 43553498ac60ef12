// The report of `tandem bench accept`: what became of drafts, where the time went, and what the
// choice of their length was made of.
//
// Not here  running the prompts (bench_generation.h), choosing (scheduler/draft_length.h).
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/draft_length.h"
#include "scheduler/step_log.h"
#include "server/cli/bench_generation.h"
#include "server/cli/bench_report.h"

namespace tandem::server {

constexpr int kNumDraftReasons = static_cast<int>(scheduler::DraftReason::kUnmeasured) + 1;

// How many guesses were asked for, and why; one choice per sequence and step that drew a token.
struct PolicyCounts {
  int64_t choices = 0;
  std::array<int64_t, scheduler::kMaxDraftTokens + 1> by_length = {};
  std::array<int64_t, kNumDraftReasons> by_reason = {};
  // Predicted for the batch by each step that could predict, without drafts and with the chosen.
  std::vector<double> plain_tokens_per_s, drafted_tokens_per_s;

  PolicyCounts& operator+=(const PolicyCounts& other);
};
void Count(PolicyCounts& counts, const scheduler::StepRecord& record);

// What a reason means, in words.
std::string_view DraftReasonText(scheduler::DraftReason reason);

struct AcceptClass {
  std::string task;
  int answers = 0;
  GenerationRun run;  // without its answers
  PolicyCounts policy;
};

struct AcceptFacts {
  BenchFacts bench;
  std::string setting;  // "spec-mode=auto, spec-max-draft=3"
  std::string prompts;  // what was answered, in words
  int streams = 1;
};

//   format  "md" or "json"
std::string AcceptReport(const AcceptFacts& facts, const std::vector<AcceptClass>& classes,
                         std::string_view format);

}  // namespace tandem::server
