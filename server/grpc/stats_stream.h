// WatchStats: a message at once, then one per interval until the client leaves or the server
// drains.
//
// Not here  what the message says (stats_messages.h); the clock (call_timers.h): a watcher costs a
//           timer and, while one is written, a message.
// Threads   gRPC's and the timers'.
#pragma once

#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/grpc/service_core.h"

namespace tandem::server {

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartWatchStats(ServiceCore& core,
                                                            const grpc::ByteBuffer& request);

}  // namespace tandem::server
