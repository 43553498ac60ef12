// What the requests of a run are: a pure function of the specification, the run and the index.
//
// In        lengths, seed, and what the server says about its model (WorkloadLimits, token pool).
// Out       PlannedRequests, the same whenever and in whatever order they are made.
// Not here  when they are sent (arrivals.h, load_run.h); how (grpc_client.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/lengths.h"

namespace tandem::bench {

struct WorkloadSpec {
  Lengths prompt_tokens;
  Lengths output_tokens;
  int shared_prefix = 0;  // tokens at the start of every prompt that all prompts share
  int tenants = 0;        // requests take turns as tenant-0, tenant-1, ...; 0: none is named
  uint64_t seed = 0;
  // What prompts are made of. Either texts, used in turn ...
  std::vector<std::string> texts;
  // ... or random ids of the pool behind a BOS.
  std::vector<int32_t> token_pool;
  int32_t bos_id = 0;
  int context_length = kMaxTokens;  // of prompt and answer together
};

struct PlannedRequest {
  int index = 0;
  std::string text;                 // empty: prompt_ids
  std::vector<int32_t> prompt_ids;  // empty: text
  int output_tokens = 0;
  std::string tenant;
  uint64_t seed = 0;  // of the answer
};

// Whether prompts and answers of the longest length fit the context together. Long tails are cut
// to it by PlanRequest instead.
//   errors  kInvalidArgument with both lengths, the context and the options to change
absl::Status CheckFits(const WorkloadSpec& spec);

// The `index`-th request of run `run`. Runs differ so that a server that keeps prompts does not
// know the second run's from the first; the shared prefix is the same in all.
PlannedRequest PlanRequest(const WorkloadSpec& spec, uint64_t run, int index);

// Words of random letters and digits, for the server to tokenize: their ids are ordinary ones, no
// control tokens, and there are many different ones.
std::string PoolText(uint64_t seed);
// Each id once, in rising order.
std::vector<int32_t> PoolOf(std::vector<int32_t> ids);

struct FilePrompt {
  std::string text;
  std::string task;  // the class of prompts it belongs to; empty: none is named
};

// The "prompt" and the "task" of each line of a JSON Lines file; blank lines are skipped.
//   errors  kInvalidArgument with the number of the line
absl::StatusOr<std::vector<FilePrompt>> ParsePrompts(std::string_view jsonl);

}  // namespace tandem::bench
