// GenerateRequest to GenerationSpec, every rule of grpc-surface 2.3 to 2.10 applied.
//
// Not here  the prompt's length and media tokens, which need the tokenizer (Generator); whether the
//           request id is taken (active_calls.h).
// Threads   pure functions.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/generation/generator.h"
#include "server/grpc/params_parser.h"
#include "server/grpc/served_model.h"
#include "tandem/v1/generate.pb.h"

namespace tandem::server {

// What is known of a call beside its message.
struct CallFacts {
  bool streaming = false;
  std::string_view request_id_header = {};  // metadata x-request-id
  std::string_view tenant_header = {};      // metadata x-tenant-id
  std::string generated_id = {};            // taken when the client names none
  uint64_t random_seed = 0;                 // likewise
  int64_t arrival_us = 0;                   // on the scheduler's clock
  int64_t deadline_us = std::numeric_limits<int64_t>::max();
};

struct ParsedRequest {
  std::string request_id;
  GenerationSpec spec;
  ReportOptions report;
};

//   errors  kInvalidArgument BAD_PARAMETER, EMPTY_PROMPT or BAD_TOKEN_ID, naming field, value and
//           limit; kNotFound; kUnimplemented; kFailedPrecondition
absl::StatusOr<ParsedRequest> ParseGenerateRequest(const v1::GenerateRequest& proto,
                                                   const ServedModel& model,
                                                   const RequestLimits& limits,
                                                   const CallFacts& call);

// Whether `asked` means the served model: empty, its name, an alias, or name:revision.
absl::Status CheckModelName(std::string_view asked, const ServedModel& model);

}  // namespace tandem::server
