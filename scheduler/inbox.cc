#include "scheduler/inbox.h"

#include <utility>

#include "absl/status/statusor.h"
#include "scheduler/end_status.h"

namespace tandem::scheduler {

absl::StatusOr<RequestId> Inbox::Submit(Request request, EventSink sink) {
  RequestId id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (engine_down_) return EngineDownStatus();
    if (draining_) return DrainingStatus();
    // Only raised under the lock, so a burst cannot pass the limit together.
    const int64_t queued = queue_.requests;
    if (queued >= max_queued_requests_) return QueueFullStatus(queued, max_queued_requests_);
    queue_.requests += 1;
    queue_.prompt_tokens += static_cast<int64_t>(request.prompt.size()) * request.n;
    queue_.sequences += request.n;
    id = ++last_id_;
    messages_.push_back(
        SubmitMessage{.id = id, .request = std::move(request), .sink = std::move(sink)});
  }
  wake_.notify_one();
  return id;
}

void Inbox::Send(InboxMessage message) {
  {
    const std::lock_guard lock(mutex_);
    messages_.push_back(std::move(message));
  }
  wake_.notify_one();
}

void Inbox::BeginDrain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
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
  return {.messages = std::exchange(messages_, {}), .stop = stop_};
}

void Inbox::Wait() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [this] { return stop_ || !messages_.empty(); });
}

}  // namespace tandem::scheduler
