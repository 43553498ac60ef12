#include "server/grpc/value_count.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "scheduler/status_reason.h"

namespace tandem::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr int kMaxDepth = 100;  // as the parser's own

// Adds the fields up to the end of the input, or of what is readable.
//   returns  false when there are too many
bool Count(CodedInputStream& in, const Descriptor& type, int depth, int64_t& values) {
  while (const uint32_t tag = in.ReadTag()) {
    if (++values > kMaxValues) return false;
    const FieldDescriptor* field = type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    const bool is_message =
        field != nullptr && field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
        WireFormatLite::GetTagWireType(tag) == WireFormatLite::WIRETYPE_LENGTH_DELIMITED;
    if (!is_message) {
      if (!WireFormatLite::SkipField(&in, tag)) return true;
      continue;
    }
    uint32_t bytes = 0;
    if (depth == kMaxDepth || !in.ReadVarint32(&bytes)) return true;
    const CodedInputStream::Limit limit = in.PushLimit(static_cast<int>(bytes));
    if (!Count(in, *field->message_type(), depth + 1, values)) return false;
    const bool at_end = in.BytesUntilLimit() == 0;
    in.PopLimit(limit);
    if (!at_end) return true;  // broken within
  }
  return true;
}

}  // namespace

absl::Status CheckNumValues(google::protobuf::io::ZeroCopyInputStream& bytes,
                            const Descriptor& type) {
  CodedInputStream in(&bytes);
  in.SetTotalBytesLimit(INT32_MAX);
  int64_t values = 0;
  if (Count(in, type, /*depth=*/0, values)) return absl::OkStatus();
  return WithReason(
      absl::InvalidArgumentError(absl::StrCat(
          "the request has more than ", kMaxValues,
          " values; send fewer list entries, and token ids packed as proto3 packs them")),
      {.reason = "BAD_PARAMETER", .metadata = {}, .field = {}});
}

}  // namespace tandem::server
