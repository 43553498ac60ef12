// The status that a request ends with, or is refused with, reason attached (grpc-surface 1.8).
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "scheduler/config.h"
#include "scheduler/request.h"

namespace tandem::scheduler {

// Whether a request can ever be served: prompt, ids, counts, context length, empty pools.
absl::Status CheckRequest(const Request& request, const ModelLimits& limits);

// What of the queue is full: metadata queued_<unit>, max_queued_<unit>.
//   unit  "requests", "tokens" or "bytes"
absl::Status QueueFullStatus(int64_t queued, int64_t max_queued,
                             std::string_view unit = "requests");
// Request::reject_if_queued.
absl::Status NotStartedAtOnceStatus();
absl::Status TenantLimitStatus(int64_t queued_requests, int64_t max_queued_per_tenant);
absl::Status DrainingStatus();
absl::Status EngineDownStatus();

// What a cancelled request ends with; see Scheduler::Cancel. kAborted after a token is no error.
absl::Status CancelStatus(CancelCause cause, int completion_tokens);
absl::Status DeadlineStatus(int64_t waited_us);
absl::Status DeadlineUnattainableStatus(int64_t predicted_us, int64_t left_us);
absl::Status QueueTimeoutStatus(int64_t waited_us);
absl::Status KvExhaustedStatus(int preemptions);
absl::Status NumericFailureStatus(int64_t step, int position);
// Some K or V row among these was not finite.
absl::Status BrokenRowsStatus(int64_t step, int first_position, int rows);
absl::Status EngineFailureStatus();

}  // namespace tandem::scheduler
