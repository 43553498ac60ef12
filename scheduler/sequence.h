// The state of a request while it lives: owned by the scheduler's thread, plain data.
//
//   RequestState  one accepted request, its choices and its bookkeeping
//   Sequence      one choice of it: the growing token list, its KV blocks, its seat
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine/sampling.h"
#include "engine/step.h"
#include "kvcache/block_key.h"
#include "kvcache/block_table.h"
#include "scheduler/admission.h"
#include "scheduler/draft_length.h"
#include "scheduler/plan_step.h"
#include "scheduler/request.h"

namespace tandem::scheduler {

struct RequestState;
struct TenantLine;  // waiting_line.h

enum class SeatPhase { kWaiting, kSeated, kEnded };

struct Sequence {
  RequestState* request = nullptr;
  int choice = 0;
  Rank rank;
  SeatPhase phase = SeatPhase::kWaiting;
  std::vector<int32_t> output;  // generated ids
  int kv_tokens = 0;            // rows in the cache, computed or taken over
  int computed_tokens = 0;      // the most that kv_tokens ever was: rows below it run again
  std::array<kvcache::BlockTable, engine::kNumKvGroups> tables;
  std::vector<kvcache::BlockKey> keys;  // [i] of its block i: those that were asked for so far
  int published_blocks = 0;             // blocks that others can find, from the first on
  bool has_run = false;                 // a row of it
  engine::TokenCounts counts;           // filled only when the request asks for a penalty
  std::vector<int32_t> draft;  // guesses for what follows the newest token; they hold for this
                               // output alone, and only while all but its newest token is in the
                               // cache
  bool draft_missed = false;   // one was asked for behind the newest token, and none came
  DraftHistory draft_history;
  DraftReason draft_reason = DraftReason::kNotAllowed;  // of the latest decision
  DraftCounts drafts;
  int preemptions = 0;
};

struct RequestState {
  RequestId id = 0;
  Request request;
  EventSink sink;
  Reservation reservation;          // until it starts or ends
  TenantLine* tenant = nullptr;     // while open
  kvcache::BlockKey root_key = {};  // of all its sequences; prefix_reuse.h
  std::vector<Sequence> choices;    // fixed once built: others point into it
  std::vector<int32_t> stop_ids;    // all ids that end a choice, masked before min_tokens
  bool needs_counts = false;        // a penalty was asked for
  int open_choices = 0;
  int next_scored = 1;  // prompt position whose log-probability is sent next
  bool ended = false;
  bool started = false;
  bool paused = false;
  int64_t due_us = 0;  // deadline, queue timeout or time limit: the first of them
  int64_t started_us = 0;
  int64_t first_token_us = 0;   // valid when completion_tokens > 0
  int64_t paused_since_us = 0;  // valid when paused
  RequestStats stats;

  int prompt_tokens() const { return static_cast<int>(request.prompt.size()); }
};

inline int KnownTokens(const Sequence& sequence) {
  return sequence.request->prompt_tokens() + static_cast<int>(sequence.output.size());
}

inline int32_t TokenAt(const Sequence& sequence, int position) {
  const int prompt_tokens = sequence.request->prompt_tokens();
  return position < prompt_tokens ? sequence.request->request.prompt[position]
                                  : sequence.output[position - prompt_tokens];
}

// As SeqState::decoding: past its prompt, and the newest token's row is the one to run.
inline bool IsDecoding(const Sequence& sequence) {
  return sequence.kv_tokens >= sequence.request->prompt_tokens() &&
         KnownTokens(sequence) - sequence.kv_tokens == 1;
}

}  // namespace tandem::scheduler
