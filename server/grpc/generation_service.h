// The methods of tandem.v1: which work, and who does the work.
//
// In        raw requests (wire_message.h says why raw).
// Out       answers, or a status with details.
// Not here  generation itself (generate_reactors.h).
// Threads   gRPC's; what takes longer than a copy runs on the text pool.
#pragma once

#include <memory>
#include <vector>

#include "grpcpp/impl/codegen/service_type.h"
#include "server/grpc/service_core.h"

namespace tandem::server {

// The services to register. `core` outlives them.
std::vector<std::unique_ptr<grpc::Service>> MakeServices(ServiceCore& core);

}  // namespace tandem::server
