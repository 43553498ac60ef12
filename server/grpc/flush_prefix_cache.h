// The method FlushPrefixCache of the Admin service: forgets what is cached for equal prefixes,
// after waiting for the engine to be idle if that is asked.
//
// Not here  gRPC (generation_service.h); which blocks are cached (kvcache/block_pool.h).
// Threads   any; nothing here blocks.
#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "server/grpc/service_core.h"
#include "tandem/v1/admin.pb.h"

namespace tandem::server {

// Calls `answer` once, on this thread or on the timers'.
//   cancelled  whether the client has gone; asked now and then while waiting, until `answer`
//   errors     kPermissionDenied AUTH unless GrpcConfig::admin; kUnavailable MODEL_LOADING,
//              DRAINING; kDeadlineExceeded DEADLINE: not idle within timeout_ms, nothing was
//              forgotten; kCancelled CLIENT_CANCELLED
void FlushPrefixCache(const v1::FlushPrefixCacheRequest& request, ServiceCore& core,
                      std::function<bool()> cancelled,
                      std::function<void(absl::StatusOr<v1::FlushPrefixCacheResponse>)> answer);

}  // namespace tandem::server
