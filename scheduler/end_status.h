// The status that a request ends with, or is refused with, reason attached (grpc-surface 1.8).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "scheduler/config.h"
#include "scheduler/request.h"

namespace tandem::scheduler {

// Whether a request can ever be served: prompt, ids, counts, context length, empty pools.
absl::Status CheckRequest(const Request& request, const ModelLimits& limits);

absl::Status QueueFullStatus(int64_t queued_requests, int max_queued_requests);
absl::Status DrainingStatus();
absl::Status EngineDownStatus();

// What a cancelled request ends with; see Scheduler::Cancel. kAborted after a token is no error.
absl::Status CancelStatus(CancelCause cause, int completion_tokens);
absl::Status DeadlineStatus(int64_t waited_us);
absl::Status QueueTimeoutStatus(int64_t waited_us);
absl::Status KvExhaustedStatus(int preemptions);
absl::Status NumericFailureStatus(int64_t step, int position);
absl::Status EngineFailureStatus();

}  // namespace tandem::scheduler
