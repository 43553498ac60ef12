#include "server/grpc/active_calls.h"

#include <utility>

#include "server/grpc/request_errors.h"

namespace tandem::server {

using scheduler::CancelCause;

absl::StatusOr<ActiveCalls::Ticket> ActiveCalls::Begin(const std::string& request_id) {
  const std::lock_guard lock(mutex_);
  if (draining_) return Draining();
  const Ticket ticket = next_ticket_;
  if (!request_id.empty() && !tickets_.emplace(request_id, ticket).second) {
    return DuplicateRequestId(request_id);
  }
  ++next_ticket_;
  calls_[ticket] = {.request_id = request_id, .begun_us = scheduler::MonotonicNowUs()};
  return ticket;
}

std::optional<CancelCause> ActiveCalls::SetHandle(Ticket ticket, Generator::Handle handle) {
  const std::lock_guard lock(mutex_);
  // A call can end before its handle is known; then there is nothing left to cancel.
  const auto found = calls_.find(ticket);
  if (found == calls_.end()) return std::nullopt;
  found->second.handle = handle;
  if (cancelled_) return CancelCause::kDrain;
  if (found->second.aborted) return CancelCause::kAborted;
  return std::nullopt;
}

void ActiveCalls::End(Ticket ticket) {
  const std::lock_guard lock(mutex_);
  const auto found = calls_.find(ticket);
  if (found == calls_.end()) return;
  tickets_.erase(found->second.request_id);
  calls_.erase(found);
  if (calls_.empty()) changed_.notify_all();
}

ActiveCalls::View ActiveCalls::ViewOf(const Call& call) const {
  return {.handle = call.handle, .age_us = scheduler::MonotonicNowUs() - call.begun_us};
}

std::optional<ActiveCalls::View> ActiveCalls::Find(const std::string& request_id) {
  const std::lock_guard lock(mutex_);
  const auto found = tickets_.find(request_id);
  if (found == tickets_.end()) return std::nullopt;
  return ViewOf(calls_.at(found->second));
}

std::optional<ActiveCalls::View> ActiveCalls::Abort(const std::string& request_id) {
  const std::lock_guard lock(mutex_);
  const auto found = tickets_.find(request_id);
  if (found == tickets_.end()) return std::nullopt;
  Call& call = calls_.at(found->second);
  call.aborted = true;
  return ViewOf(call);
}

absl::StatusOr<ActiveCalls::Ticket> ActiveCalls::BeginWatch(std::function<void()> on_drain) {
  const std::lock_guard watch_lock(watch_mutex_);
  Ticket ticket = 0;
  {
    const std::lock_guard lock(mutex_);
    if (draining_) return Draining();
    ticket = next_ticket_++;
  }
  watches_.emplace(ticket, std::move(on_drain));
  return ticket;
}

void ActiveCalls::EndWatch(Ticket ticket) {
  const std::lock_guard lock(watch_mutex_);
  watches_.erase(ticket);
}

void ActiveCalls::BeginDrain() {
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
  }
  const std::lock_guard lock(watch_mutex_);
  for (const auto& [ticket, on_drain] : watches_) on_drain();
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
    if (call.handle.has_value()) handles.push_back(*call.handle);
  }
  return handles;
}

}  // namespace tandem::server
