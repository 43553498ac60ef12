// The calls under way: whose ids are taken, how many must end before the process may, and how to
// end them.
//
// Threads   any.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
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
  //   returns  false when all calls were told to end in the meantime: the caller cancels it
  bool SetHandle(Ticket ticket, Generator::Handle handle);
  void End(Ticket ticket);

  // Begin refuses from now on.
  void BeginDrain();
  // Waits until no call is left, Hurry is called, or `timeout` is over.
  //   returns  whether no call is left
  bool WaitIdle(std::chrono::milliseconds timeout);
  // Ends the waiting.
  void Hurry();
  // The generations under way, for the caller to cancel; SetHandle returns false from now on.
  std::vector<Generator::Handle> HandlesToCancel();

 private:
  struct Call {
    std::string request_id;
    bool running = false;
    Generator::Handle handle = 0;
  };

  std::mutex mutex_;
  std::condition_variable changed_;
  absl::flat_hash_map<Ticket, Call> calls_;
  absl::flat_hash_set<std::string> request_ids_;
  Ticket next_ticket_ = 1;
  bool draining_ = false;
  bool cancelled_ = false;
  bool hurry_ = false;
};

}  // namespace tandem::server
