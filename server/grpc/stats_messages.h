// How the engine is doing, and what a client may ask of running calls, as messages.
//
// Threads   any; nothing here waits for a step.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "server/grpc/service_core.h"
#include "tandem/v1/info.pb.h"

namespace tandem::server {

//   now_us   of the system clock, since 1970
v1::EngineStats ToEngineStats(const scheduler::SchedulerStats& stats, const ServedModel& model,
                              const TokenRates& rates, bool draining, int64_t now_us);

// ToEngineStats of this moment.
//   errors  kUnavailable MODEL_LOADING
absl::StatusOr<v1::EngineStats> EngineStatsNow(ServiceCore& core);

// 0 stands for the default.
//   errors  kInvalidArgument BAD_PARAMETER
absl::StatusOr<int64_t> WatchIntervalMs(const v1::WatchStatsRequest& request);

// Marks the calls that are named.
//   errors  kInvalidArgument BAD_PARAMETER: too many ids, or no ids; kPermissionDenied AUTH: tenant
absl::StatusOr<v1::AbortResponse> AbortCalls(const v1::AbortRequest& request, ServiceCore& core);

// Where a call stands. Calls `answer` once, on this thread or on the timers'.
//   errors  kNotFound REQUEST_NOT_FOUND; kInvalidArgument BAD_PARAMETER
void DescribeCall(const v1::GetRequestStatusRequest& request, ServiceCore& core,
                  std::function<void(absl::StatusOr<v1::RequestStatus>)> answer);

}  // namespace tandem::server
