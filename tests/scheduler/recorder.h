// Records the events of one request and checks that they keep the contract of request.h.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "scheduler/config.h"
#include "scheduler/request.h"
#include "scheduler/stats.h"

namespace tandem::scheduler {

struct ChoiceRecord {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;  // of `ids`
  std::vector<int> events;      // tokens of each kTokens
  int64_t drafted = 0;          // as these told
  int64_t accepted = 0;
  int64_t last_step = 0;  // that gave tokens
  bool finished = false;
  FinishReason reason = FinishReason::kAborted;
  int32_t stop_id = -1;
};

// What one choice gives when nobody interferes, worked out from the request alone.
ChoiceRecord ExpectedChoice(const Request& request, int choice, const ModelLimits& limits);

struct Recorder {
  explicit Recorder(const Request& request) : request(request), choices(request.n) {}

  EventSink Sink();  // refers to this object
  void On(TokenEvent event);
  void OnTokens(const TokenEvent& event);
  void CheckDrafts(const ChoiceRecord& choice, const DraftCounts& counts);
  // Every id sent is the expected one, and choices that ended by themselves are complete.
  // Empty when all is well.
  std::string CheckAgainstExpected(const ModelLimits& limits) const;

  Request request;
  std::vector<ChoiceRecord> choices;
  int started = 0;
  int finished = 0;
  int tokens = 0;
  std::vector<float> prompt_logprobs;  // from position 1 on
  DraftCounts ended_drafts;            // of the choices that finished
  const int64_t* steps = nullptr;      // the device's, when set
  absl::Status status;
  RequestStats stats;
  std::vector<std::string> errors;  // broken contract
};

// No block, seat or place in the queue is in use.
void ExpectNothingHeld(const SchedulerStats& stats);

}  // namespace tandem::scheduler
