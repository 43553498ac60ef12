// Messages to and from the bytes that gRPC carries.
//
// The services take raw bytes and parse them here: gRPC itself answers an unreadable message with
// UNIMPLEMENTED, which tells a client that has a bug to look in the wrong place.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "grpcpp/support/status.h"
#include "scheduler/status_reason.h"
#include "server/grpc/value_count.h"
#include "server/grpc/wire_status.h"

namespace tandem::server {

// Messages up to this size can do no harm, however many values they hold.
constexpr size_t kHarmlessBytes = 64 << 10;

//   errors  kInvalidArgument BAD_PARAMETER: not a message of this type, or a string in it is not
//           UTF-8, or more values than kMaxValues
template <class Message>
absl::StatusOr<Message> ParseMessage(const grpc::ByteBuffer& bytes) {
  Message message;
  grpc::ByteBuffer copy = bytes;  // shares the bytes; reading uses its buffer up
  if (bytes.Length() > kHarmlessBytes) {
    grpc::ByteBuffer counted = bytes;
    grpc::ProtoBufferReader reader(&counted);
    if (reader.status().ok()) {
      const absl::Status few = CheckNumValues(reader, *Message::descriptor());
      if (!few.ok()) return few;
    }
  }
  if (!grpc::SerializationTraits<Message>::Deserialize(&copy, &message).ok()) {
    return WithReason(absl::InvalidArgumentError(absl::StrCat(
                          "the request of ", bytes.Length(), " bytes is no ",
                          Message::descriptor()->full_name(), ", or a string in it is not UTF-8")),
                      {.reason = "BAD_PARAMETER", .metadata = {}, .field = {}});
  }
  return message;
}

template <class Message>
grpc::ByteBuffer SerializeMessage(const Message& message) {
  grpc::ByteBuffer bytes;
  bool own_buffer = false;
  // Fails only for messages above 2 GiB.
  (void)grpc::SerializationTraits<Message>::Serialize(message, &bytes, &own_buffer);
  return bytes;
}

inline grpc::Status ToGrpcStatus(const WireStatus& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code), status.message, status.details);
}

}  // namespace tandem::server
