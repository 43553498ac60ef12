#include "scheduler/inbox.h"

#include <chrono>
#include <utility>

#include "absl/status/statusor.h"
#include "scheduler/end_status.h"

namespace tandem::scheduler {

absl::StatusOr<RequestId> Inbox::Submit(Request request, EventSink sink, Reservation reservation) {
  RequestId id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (engine_down_) return EngineDownStatus();
    if (stop_) return DrainingStatus();
    waiting_sequences_ += request.n;
    id = ++last_id_;
    messages_.push_back(SubmitMessage{.id = id,
                                      .request = std::move(request),
                                      .sink = std::move(sink),
                                      .reservation = std::move(reservation)});
  }
  wake_.notify_one();
  return id;
}

bool Inbox::Send(InboxMessage message) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return false;
    messages_.push_back(std::move(message));
  }
  wake_.notify_one();
  return true;
}

void Inbox::Stop() {
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    stop_ = true;
  }
  wake_.notify_one();
}

void Inbox::EngineFailed() {
  const std::lock_guard lock(mutex_);
  engine_down_ = true;
}

Inbox::Batch Inbox::Take() {
  const std::lock_guard lock(mutex_);
  closed_ = stop_;
  return {.messages = std::exchange(messages_, {}), .stop = stop_};
}

void Inbox::Wait(int64_t timeout_us) {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, std::chrono::microseconds(timeout_us),
                 [this] { return stop_ || !messages_.empty(); });
}

}  // namespace tandem::scheduler
