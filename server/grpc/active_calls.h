// The calls under way: whose ids are taken, how many must end before the process may, and how to
// end them.
//
// Threads   any.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/generation/generator.h"

namespace tandem::server {

class ActiveCalls {
 public:
  using Ticket = uint64_t;

  // Enters a call that works until End. `request_id` may be empty for calls without one.
  //   errors  kAlreadyExists DUPLICATE_REQUEST_ID; kUnavailable DRAINING
  absl::StatusOr<Ticket> Begin(const std::string& request_id);
  // The generation that the call runs.
  //   returns  why the call was told to end in the meantime, if it was: the caller then cancels
  std::optional<scheduler::CancelCause> SetHandle(Ticket ticket, Generator::Handle handle);
  void End(Ticket ticket);

  // A call as others may see it.
  struct View {
    std::optional<Generator::Handle> handle;  // none: about to start
    int64_t age_us = 0;
  };
  // The call with this id; nullopt when there is none.
  std::optional<View> Find(const std::string& request_id);
  // The same, for the caller to cancel; a call about to start learns of it from SetHandle.
  std::optional<View> Abort(const std::string& request_id);

  // Enters a call that only watches: WaitIdle does not wait for it, and BeginDrain calls
  // `on_drain`, which must return at once and not call back here.
  //   errors  kUnavailable DRAINING
  absl::StatusOr<Ticket> BeginWatch(std::function<void()> on_drain);
  // Afterwards `on_drain` neither runs nor will.
  void EndWatch(Ticket ticket);

  // Begin and BeginWatch refuse from now on.
  void BeginDrain();
  // Waits until no call is left, Hurry is called, or `timeout` is over.
  //   returns  whether no call is left
  bool WaitIdle(std::chrono::milliseconds timeout);
  // Ends the waiting.
  void Hurry();
  // The generations under way, for the caller to cancel (kDrain); SetHandle says so to the others.
  std::vector<Generator::Handle> HandlesToCancel();

 private:
  struct Call {
    std::string request_id;
    int64_t begun_us = 0;
    std::optional<Generator::Handle> handle;
    bool aborted = false;
  };

  View ViewOf(const Call& call) const;

  std::mutex mutex_;  // all but the watches
  std::condition_variable changed_;
  absl::flat_hash_map<Ticket, Call> calls_;
  absl::flat_hash_map<std::string, Ticket> tickets_;  // by request id
  Ticket next_ticket_ = 1;
  bool draining_ = false;
  bool cancelled_ = false;
  bool hurry_ = false;

  std::mutex watch_mutex_;  // taken before mutex_
  std::map<Ticket, std::function<void()>> watches_;
};

}  // namespace tandem::server
