// The parameter messages that Generate and Chat share, checked and turned into plain structs.
//
// In        proto messages as a client sent them: anything at all.
// Out       what the scheduler and the text layer take, or kInvalidArgument with the path of the
//           field, its value and the limit; kUnimplemented for what this server does not have.
// Source    grpc-surface 2.5 to 2.10.
// Threads   pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "server/generation/generator.h"
#include "server/grpc/served_model.h"
#include "tandem/v1/params.pb.h"

namespace tandem::server {

// What the operator allows.
struct RequestLimits {
  int max_n = 8;
  int64_t default_queue_timeout_us = 0;  // 0: none
};

// What answers carry.
struct ReportOptions {
  bool token_ids = true;
  bool speculative_stats = false;
  bool timing = false;
  bool prompt_token_ids = false;
};

// Each fills its part of `spec`, whose request.arrival_us must be set, and leaves the rest alone.
absl::Status ParseSampling(const v1::SamplingParams& params, const ServedModel& model,
                           const RequestLimits& limits, uint64_t random_seed, GenerationSpec& spec);
absl::Status ParseOutput(const v1::OutputOptions& options, GenerationSpec& spec,
                         ReportOptions& report);
// After ParseOutput: some stops need text, and scoring needs prompt log-probabilities.
absl::Status ParseStopping(const v1::StoppingParams& params, const ServedModel& model,
                           GenerationSpec& spec);
absl::Status ParseScheduling(const v1::SchedulingParams& params, const RequestLimits& limits,
                             GenerationSpec& spec);
// What the fields leave open comes from `header`, metadata x-tandem-spec, if it is there, else from
// the server's settings. Without a drafter it is off, or kFailedPrecondition DRAFTER_UNAVAILABLE
// with `require`.
absl::Status ParseSpeculative(const v1::SpeculativeParams& params,
                              std::optional<std::string_view> header, const ServedModel& model,
                              GenerationSpec& spec);
absl::Status ParseCache(const v1::CacheParams& params, GenerationSpec& spec);
// Sizes first, so that a client learns of a mistake even where the feature is missing.
absl::Status CheckGuided(const v1::GuidedDecoding& guided);

// kInvalidArgument when `value` has more than `max_bytes` bytes.
absl::Status CheckBytes(std::string_view field, std::string_view value, size_t max_bytes);
// kInvalidArgument BAD_TOKEN_ID, naming `field`[index].
absl::Status CheckTokenId(std::string_view field, int index, uint32_t id, int vocab_size);

}  // namespace tandem::server
