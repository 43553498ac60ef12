// The fields that GenerateRequest and ChatRequest share: all but the prompt (grpc-surface 2.3).
//
// Threads   pure functions.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/generation/generator.h"
#include "server/grpc/params_parser.h"
#include "server/grpc/served_model.h"

namespace tandem::server {

// What is known of a call beside its message.
struct CallFacts {
  bool streaming = false;
  std::string_view request_id_header = {};           // metadata x-request-id
  std::string_view tenant_header = {};               // metadata x-tenant-id
  std::optional<std::string_view> spec_header = {};  // metadata x-tandem-spec
  std::string generated_id = {};                     // taken when the client names none
  uint64_t random_seed = 0;                          // likewise
  int64_t message_bytes = 0;                         // of the request on the wire
  int64_t arrival_us = 0;                            // on the scheduler's clock
  int64_t deadline_us = std::numeric_limits<int64_t>::max();
};

struct ParsedRequest {
  std::string request_id;
  std::string user_digest;  // stands for `user` in logs; empty without one
  GenerationSpec spec;
  ReportOptions report;
};

// Reads a v1::GenerateRequest or v1::ChatRequest; `parse_prompt` fills spec.prompt, and is called
// in the order of the fields, since the first mistake is the one to tell.
//   errors  kInvalidArgument BAD_PARAMETER or BAD_TOKEN_ID, naming field, value and limit;
//           kNotFound; kUnimplemented; kFailedPrecondition; those of `parse_prompt`
template <class Request>
absl::StatusOr<ParsedRequest> ParseSharedFields(
    const Request& proto, const ServedModel& model, const RequestLimits& limits,
    const CallFacts& call, const std::function<absl::Status(GenerationSpec& spec)>& parse_prompt);

// Whether `asked` means the served model: empty, its name, an alias, or name:revision.
absl::Status CheckModelName(std::string_view asked, const ServedModel& model);

}  // namespace tandem::server
