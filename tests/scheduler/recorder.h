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
  // Every id sent is the expected one, and choices that ended by themselves are complete.
  // Empty when all is well.
  std::string CheckAgainstExpected(const ModelLimits& limits) const;

  Request request;
  std::vector<ChoiceRecord> choices;
  int started = 0;
  int finished = 0;
  int tokens = 0;
  std::vector<float> prompt_logprobs;  // from position 1 on
  absl::Status status;
  RequestStats stats;
  std::vector<std::string> errors;  // broken contract
};

// No block, seat or place in the queue is in use.
void ExpectNothingHeld(const SchedulerStats& stats);

}  // namespace tandem::scheduler
