#include "server/grpc/active_calls.h"

#include "server/grpc/request_errors.h"

namespace tandem::server {

absl::StatusOr<ActiveCalls::Ticket> ActiveCalls::Begin(const std::string& request_id) {
  const std::lock_guard lock(mutex_);
  if (draining_) return Draining();
  if (!request_id.empty() && !request_ids_.insert(request_id).second) {
    return DuplicateRequestId(request_id);
  }
  const Ticket ticket = next_ticket_++;
  calls_[ticket].request_id = request_id;
  return ticket;
}

bool ActiveCalls::SetHandle(Ticket ticket, Generator::Handle handle) {
  const std::lock_guard lock(mutex_);
  // A call can end before its handle is known; then there is nothing left to cancel.
  if (const auto found = calls_.find(ticket); found != calls_.end()) {
    found->second.running = true;
    found->second.handle = handle;
  }
  return !cancelled_;
}

void ActiveCalls::End(Ticket ticket) {
  const std::lock_guard lock(mutex_);
  const auto found = calls_.find(ticket);
  if (found == calls_.end()) return;
  request_ids_.erase(found->second.request_id);
  calls_.erase(found);
  if (calls_.empty()) changed_.notify_all();
}

void ActiveCalls::BeginDrain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
}

bool ActiveCalls::WaitIdle(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout, [&] { return calls_.empty() || hurry_; });
  return calls_.empty();
}

void ActiveCalls::Hurry() {
  const std::lock_guard lock(mutex_);
  hurry_ = true;
  changed_.notify_all();
}

std::vector<Generator::Handle> ActiveCalls::HandlesToCancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  std::vector<Generator::Handle> handles;
  for (const auto& [ticket, call] : calls_) {
    if (call.running) handles.push_back(call.handle);
  }
  return handles;
}

}  // namespace tandem::server
