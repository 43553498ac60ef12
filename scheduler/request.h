// What a client asked for, and what it is told: the plain structs between server/ and the
// scheduler.
//
// A Request is immutable once submitted. Everything that happens to it comes back as TokenEvents in
// order, on the scheduler's thread, through a sink that must not block.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/sampling.h"

namespace tandem::scheduler {

using RequestId = uint64_t;  // process-wide, given by Scheduler::Submit

struct StopParams {
  int max_tokens = 0;                  // 0: only score the prompt (needs prompt_logprobs)
  int min_tokens = 0;                  // until then none of the stops below is drawn
  std::vector<int32_t> eos_ids = {};   // the model's, or empty with ignore_eos
  std::vector<int32_t> stop_ids = {};  // the client's
  int64_t time_limit_us = 0;           // from arrival; 0: none. Ends with kTimeLimit and status OK,
                                       // possibly before kStarted
};

constexpr int kMaxDraftTokens = 16;

// How many tokens to guess ahead. Never changes the text.
struct Speculation {
  enum class Mode {
    kOff,
    kAuto,   // as many as pay off right now, possibly none (draft_length.h)
    kFixed,  // always max_draft_tokens, as far as blocks and rows allow
  };
  Mode mode = Mode::kAuto;
  int max_draft_tokens = kMaxDraftTokens;  // 0 is kOff; at most SchedulerConfig::max_draft_tokens
                                           // are used
};

// Reuse of KV blocks across requests. Never changes the text.
struct PrefixCacheParams {
  bool read = true;   // false: compute the whole prompt
  bool write = true;  // false: leave nothing behind for others
  std::string salt;   // only requests with an equal salt and tenant share
};

struct Request {
  std::string client_id;  // for logs
  std::vector<int32_t> prompt;
  engine::SamplingParams sampling;
  StopParams stop;
  engine::LogprobOptions logprobs;         // of output tokens
  engine::LogprobOptions prompt_logprobs;  // of prompt tokens from position 1 on
  Speculation speculation;
  PrefixCacheParams prefix_cache;
  int n = 1;                      // choices
  int priority = 0;               // -100..100, higher first
  std::string tenant;             // waiting requests of all tenants take turns
  bool reject_if_queued = false;  // refused unless its first row runs in the next step
  // Points in time on the scheduler's clock.
  int64_t arrival_us = 0;
  int64_t deadline_us = std::numeric_limits<int64_t>::max();       // then DEADLINE_EXCEEDED
  int64_t queue_timeout_us = std::numeric_limits<int64_t>::max();  // same, while no row has run
};

enum class FinishReason {
  kStopEos,
  kStopToken,
  kStopString,  // found by server/, told by Scheduler::StopChoice (text is not known here)
  kMaxTokens,
  kContextLength,
  kTimeLimit,
  kToolCalls,  // found by server/: the model waits for the result of a tool it called
  kAborted,
};

// For logs and reports: "max_tokens".
constexpr const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStopEos:
      return "stop_eos";
    case FinishReason::kStopToken:
      return "stop_token";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kMaxTokens:
      return "max_tokens";
    case FinishReason::kContextLength:
      return "context_length";
    case FinishReason::kTimeLimit:
      return "time_limit";
    case FinishReason::kToolCalls:
      return "tool_calls";
    case FinishReason::kAborted:
      return "aborted";
  }
  return "unknown";
}

// What became of drafts. A round is a step that ran a decoding sequence's newest token, with or
// without a draft behind it; it emits one token more than were accepted, unless a stop cuts it.
// Every guess is counted once, as drafted or as discarded, but for those of a step in which the
// request failed.
struct DraftCounts {
  int64_t rounds = 0;
  int64_t rounds_with_draft = 0;
  int64_t drafted = 0;    // guesses that were verified, up to where the choice ended
  int64_t accepted = 0;   // of these, guesses that held
  int64_t discarded = 0;  // guesses for which there was no room, or no need any more
  int64_t failed = 0;     // drafts that a NaN or infinity ended
  std::array<int64_t, kMaxDraftTokens> drafted_at = {};   // by position in the draft
  std::array<int64_t, kMaxDraftTokens> accepted_at = {};  // that held, and all before them
};

inline void Add(DraftCounts& sum, const DraftCounts& more) {
  sum.rounds += more.rounds;
  sum.rounds_with_draft += more.rounds_with_draft;
  sum.drafted += more.drafted;
  sum.accepted += more.accepted;
  sum.discarded += more.discarded;
  sum.failed += more.failed;
  for (int i = 0; i < kMaxDraftTokens; ++i) {
    sum.drafted_at[i] += more.drafted_at[i];
    sum.accepted_at[i] += more.accepted_at[i];
  }
}

struct RequestStats {
  int prompt_tokens = 0;
  int cached_prompt_tokens = 0;  // of the prompt, what the first choice did not have to compute,
                                 // since others had: before its first row or while it ran
  int completion_tokens = 0;     // over all choices
  int preemptions = 0;
  int recomputed_tokens = 0;
  DraftCounts drafts;      // over all choices
  int64_t queue_us = 0;    // arrival to first row
  int64_t prefill_us = 0;  // first row to first token
  int64_t decode_us = 0;   // first token to the end
  int64_t ttft_us = 0;     // arrival to first token; 0 when there was none
  int64_t paused_us = 0;   // Scheduler::Pause to Resume, summed
  int64_t total_us = 0;
};

struct TokenEvent {
  enum class Kind {
    kStarted,         // the request's first row is about to run; once; `stats` has prompt_tokens
                      // and queue_us
    kPromptLogprobs,  // `tokens` score prompt positions first_position.. ; ascending
    kTokens,          // `tokens` of `choice`
    kChoiceFinished,  // `choice` ended with `reason`
    kFinished,        // last event: `status` and `stats`; nothing of the request is held any more
  };
  Kind kind = Kind::kStarted;
  int choice = 0;
  int first_position = 0;
  std::vector<engine::SampledToken> tokens;
  int drafted = 0;     // kTokens: guesses verified in the step; what was accepted of them comes
                       // first in `tokens`, the target's own token last
  int accepted = 0;    // kTokens: of these, those that held, counted as in `drafts`
  DraftCounts drafts;  // kChoiceFinished: of the choice
  FinishReason reason = FinishReason::kAborted;
  int32_t stop_id = -1;  // with kStopEos, kStopToken: the id that ended the choice
  absl::Status status;
  RequestStats stats;
};

// Called on the scheduler's thread, in order; must return at once.
using EventSink = std::function<void(TokenEvent event)>;

// Where an open request is, as Scheduler::Describe tells it.
struct RequestView {
  enum class State {
    kQueued,     // no row has run
    kPrefill,    // no token yet
    kDecode,     // a token was sent
    kPaused,     // Scheduler::Pause, whatever it was before
    kPreempted,  // it has run and waits for a seat again
  };
  State state = State::kQueued;
  int queue_position = 0;        // kQueued, kPreempted: waiting requests that are served before it
  double eta_first_token_s = 0;  // a prediction; 0: there was one, or nothing is known
  int prompt_tokens = 0;
  int completion_tokens = 0;  // over all choices
  int64_t age_us = 0;         // since arrival
};

// Why a whole request is cancelled; Scheduler::Cancel says how each one ends. A stop string ends
// one choice: Scheduler::StopChoice.
enum class CancelCause { kClientGone, kAborted, kDeadline, kDrain, kSlowConsumer };

}  // namespace tandem::scheduler
