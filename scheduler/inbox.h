// Where other threads leave what the scheduler's thread takes at its next step boundary.
//
// In        submitted requests, cancellations, stops, pauses, questions, the wish to drain or stop;
//           from any thread.
// Out       all of it in order of arrival.
// Not here  what the messages do (scheduler.cc), how many may queue (admission.h).
// Threads   every member function from any thread; Take and Wait are for the scheduler's.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/admission.h"
#include "scheduler/request.h"

namespace tandem::scheduler {

struct SubmitMessage {
  RequestId id = 0;
  Request request;
  EventSink sink;
  Reservation reservation;
};
struct CancelMessage {
  RequestId id = 0;
  CancelCause cause = CancelCause::kClientGone;
  int64_t sent_us = 0;
};
struct StopChoiceMessage {
  RequestId id = 0;
  int choice = 0;
  FinishReason reason = FinishReason::kStopString;
};
struct PauseMessage {
  RequestId id = 0;
  bool paused = true;  // false: resume
};
struct DescribeMessage {
  RequestId id = 0;
  std::function<void(std::optional<RequestView>)> answer;
};
struct FlushMessage {
  std::function<void(int64_t freed)> answer;
};
using InboxMessage = std::variant<SubmitMessage, CancelMessage, StopChoiceMessage, PauseMessage,
                                  DescribeMessage, FlushMessage>;

class Inbox {
 public:
  // Queues a request and gives it an id, also during a drain: its reservation was given before.
  //   errors  kUnavailable  DRAINING after Stop, ENGINE_DOWN after EngineFailed
  absl::StatusOr<RequestId> Submit(Request request, EventSink sink, Reservation reservation);
  // Any other message. False: the loop has ended and nobody will take it.
  bool Send(InboxMessage message);

  void BeginDrain() { draining_ = true; }
  void Stop();
  void EngineFailed();

  // Everything that came since the last call, in order. `stop`: Stop was called, and since nothing
  // is accepted after it, these are the last messages.
  struct Batch {
    std::vector<InboxMessage> messages;
    bool stop = false;
  };
  Batch Take();
  // Sleeps until there is something to take, or `timeout_us` have passed.
  void Wait(int64_t timeout_us);

  bool draining() const { return draining_; }
  bool engine_down() const { return engine_down_; }
  // Sequences without a seat: raised by Submit, then the scheduler's to change.
  std::atomic<int64_t>& waiting_sequences() { return waiting_sequences_; }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<InboxMessage> messages_;  // guarded by mutex_
  RequestId last_id_ = 0;               // guarded by mutex_
  bool stop_ = false;                   // guarded by mutex_
  bool closed_ = false;                 // guarded by mutex_; the last messages were taken
  std::atomic<bool> draining_ = false;
  std::atomic<bool> engine_down_ = false;  // written under mutex_
  std::atomic<int64_t> waiting_sequences_ = 0;
};

}  // namespace tandem::scheduler
