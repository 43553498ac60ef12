// Generate and GenerateStream as gRPC's callback API wants them: objects that live as long as the
// call.
//
// In        the call; events of its GenerationRun, on the text pool.
// Out       the answer. Nothing is sent, headers included, before the request is about to run, so
//           that a refusal is a status alone and clients may retry it elsewhere.
// Not here  what the messages say (stream_mailbox.h, unary_answer.h); cancellation
// (generation_run.h). Threads   gRPC's and the text pool's; neither waits for the other, or for the
// client.
//
// A reactor finishes its call only after the Generator's last event, and gRPC deletes it after
// that: so events never find it gone.
#pragma once

#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/grpc/service_core.h"

namespace tandem::server {

grpc::ServerUnaryReactor* StartGenerate(ServiceCore& core, grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer& request,
                                        grpc::ByteBuffer* response);

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerateStream(
    ServiceCore& core, grpc::CallbackServerContext* context, const grpc::ByteBuffer& request);

}  // namespace tandem::server
