// Where other threads leave what the scheduler's thread takes at its next step boundary.
//
// In        submitted requests, cancellations, stops, the wish to drain or stop; from any thread.
// Out       all of it in order of arrival; queue counts for admission and metrics.
// Not here  what the messages do (scheduler.cc).
// Threads   every member function from any thread; Take and Wait are for the scheduler's.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/request.h"

namespace tandem::scheduler {

struct SubmitMessage {
  RequestId id = 0;
  Request request;
  EventSink sink;
};
struct CancelMessage {
  RequestId id = 0;
  CancelCause cause = CancelCause::kClientGone;
};
struct StopChoiceMessage {
  RequestId id = 0;
  int choice = 0;
};
using InboxMessage = std::variant<SubmitMessage, CancelMessage, StopChoiceMessage>;

// Requests that were accepted and have not started. Raised by Submit, lowered by the scheduler.
struct QueueCounts {
  std::atomic<int64_t> requests = 0;
  std::atomic<int64_t> prompt_tokens = 0;  // times choices
  std::atomic<int64_t> sequences = 0;      // waiting for a seat, preempted ones included
};

class Inbox {
 public:
  explicit Inbox(int max_queued_requests) : max_queued_requests_(max_queued_requests) {}

  // Queues a request and gives it an id; errors as Scheduler::Submit has them for a full queue, a
  // drain and a failed engine.
  absl::StatusOr<RequestId> Submit(Request request, EventSink sink);
  void Send(InboxMessage message);  // Cancel and StopChoice

  void BeginDrain();
  void Stop();
  void EngineFailed();

  // Everything that came since the last call, in order. `stop`: Stop was called, and since nothing
  // is accepted after it, these are the last submissions.
  struct Batch {
    std::vector<InboxMessage> messages;
    bool stop = false;
  };
  Batch Take();
  // Sleeps until there is something to take.
  void Wait();

  bool draining() const { return draining_; }
  bool engine_down() const { return engine_down_; }
  QueueCounts& queue() { return queue_; }
  const QueueCounts& queue() const { return queue_; }

 private:
  const int max_queued_requests_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<InboxMessage> messages_;  // guarded by mutex_
  RequestId last_id_ = 0;               // guarded by mutex_
  bool stop_ = false;                   // guarded by mutex_
  std::atomic<bool> draining_ = false;  // written under mutex_
  std::atomic<bool> engine_down_ = false;
  QueueCounts queue_;
};

}  // namespace tandem::scheduler
