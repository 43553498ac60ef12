// Who may wait: one reservation over requests, prompt tokens, bytes and a tenant's share of the
// requests (grpc-surface 1.12).
//
// A request counts from the moment its message is parsed until its first row runs or it ends. The
// check and all increments happen under one lock, so that a burst cannot pass a limit together.
//
// Not here  the order in which requests are served (waiting_line.h).
// Threads   everything from any thread; one Reservation from one thread at a time.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "scheduler/config.h"

namespace tandem::scheduler {

struct ReservationRequest {
  std::string tenant = {};
  int64_t prompt_tokens = 0;  // an estimate, times the choices; Submit corrects it
  int64_t bytes = 0;          // of the message
  int64_t deadline_us = std::numeric_limits<int64_t>::max();  // on the scheduler's clock
};

class Admission;

// A place in the queue; gives it back when destroyed. May outlive the scheduler.
class Reservation {
 public:
  Reservation() = default;  // none
  Reservation(Reservation&& other) noexcept = default;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation() { Release(); }

  bool held() const { return admission_ != nullptr; }
  // Corrects the estimate; never refuses.
  void SetPromptTokens(int64_t tokens);
  // The request has all it needs to run: later ones of its tenant wait behind it, unless they have
  // a higher priority.
  void SetSubmitted(int priority);
  // Prompt tokens of submitted requests that are surely served before this one: of its tenant,
  // reserved earlier, and not of a lower priority. Other tenants take turns with it, so they count
  // for nothing.
  int64_t TokensAhead(int priority) const;
  void Release();  // idempotent

 private:
  friend class Admission;
  std::shared_ptr<Admission> admission_;
  std::string tenant_;
  uint64_t number_ = 0;
};

struct QueueCounts {
  int64_t requests = 0;
  int64_t prompt_tokens = 0;
  int64_t bytes = 0;
};

// Held by a shared_ptr: its reservations keep it alive.
class Admission : public std::enable_shared_from_this<Admission> {
 public:
  explicit Admission(const SchedulerConfig& config) : config_(config) {}

  //   errors  kResourceExhausted  QUEUE_FULL {queued_requests, max_queued_requests}, or _tokens, or
  //                               _bytes: into an empty queue any one request fits;
  //                               TENANT_LIMIT {queued_requests, max_queued_per_tenant}
  absl::StatusOr<Reservation> Reserve(const ReservationRequest& request);
  QueueCounts counts() const;

 private:
  friend class Reservation;
  struct Held {
    int64_t prompt_tokens = 0;
    int64_t bytes = 0;
    int priority = 0;
    bool submitted = false;
  };
  using TenantQueue = std::map<uint64_t, Held>;  // by number: in order of reservation

  absl::Status Check(const ReservationRequest& request) const;

  const SchedulerConfig config_;
  mutable std::mutex mutex_;
  QueueCounts counts_;                                     // guarded by mutex_
  uint64_t last_number_ = 0;                               // guarded by mutex_
  absl::flat_hash_map<std::string, TenantQueue> tenants_;  // guarded by mutex_; none is empty
};

}  // namespace tandem::scheduler
