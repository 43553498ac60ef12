// Generate and Chat, unary and streamed, as gRPC's callback API wants them: objects that live as
// long as the call.
//
// In        the call; events of its GenerationRun, on the text pool.
// Out       the answer. Nothing is sent, headers included, before the request is about to run, so
//           that a refusal is a status alone and clients may retry it elsewhere.
// Not here  what the messages say (stream_mailbox.h, unary_answer.h); cancellation
//           (generation_run.h).
// Threads   gRPC's, the text pool's and the timers'; none waits for another, or for the client.
//
// A stream whose client does not keep up is paused: its request stays out of the batch until the
// mailbox is at most half full. One that stays paused for too long is given up.
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

grpc::ServerUnaryReactor* StartChat(ServiceCore& core, grpc::CallbackServerContext* context,
                                    const grpc::ByteBuffer& request, grpc::ByteBuffer* response);

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerateStream(
    ServiceCore& core, grpc::CallbackServerContext* context, const grpc::ByteBuffer& request);

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartChatStream(ServiceCore& core,
                                                            grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer& request);

}  // namespace tandem::server
