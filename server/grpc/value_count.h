// How many values a message holds, read from its bytes without building it.
//
// A value of two bytes on the wire takes up to a hundred and more once parsed: a message below the
// receive limit could ask for gigabytes. So they are counted first.
//
// Threads   pure functions.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/zero_copy_stream.h"

namespace tandem::server {

// More than any request needs whose lists are within their limits. Packed numbers, such as token
// ids, count as one value a list: they take no more memory than bytes.
constexpr int64_t kMaxValues = 1 << 18;

//   errors  kInvalidArgument BAD_PARAMETER: more than kMaxValues fields, those of nested messages
//           and unknown ones included. OK for bytes that are no message: the parser says so
absl::Status CheckNumValues(google::protobuf::io::ZeroCopyInputStream& bytes,
                            const google::protobuf::Descriptor& type);

}  // namespace tandem::server
