// What a run has seen, as the client saw it: everything the figures are made of.
//
// Times are microseconds from the start of the run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tandem::bench {

struct TokenMessage {
  int64_t time_us = 0;
  int tokens = 0;  // above 0

  bool operator==(const TokenMessage&) const = default;
};

struct RequestRecord {
  int index = 0;
  int64_t due_us = 0;   // when it was to be sent
  int64_t sent_us = 0;  // when it was; retries count from the first time
  int64_t end_us = 0;
  int prompt_tokens = 0;
  int cached_prompt_tokens = 0;  // of them, found in the server's prefix cache
  int output_tokens = 0;
  std::vector<TokenMessage> messages;  // of a stream; none of a unary call
  int code = 0;                        // of gRPC
  std::string reason;                  // ErrorInfo.reason; empty when OK or without one
  std::string message;                 // of the status
  int retries = 0;

  bool ok() const { return code == 0; }
  bool operator==(const RequestRecord&) const = default;
};

struct RunResult {
  std::string label;         // "64 streams"; runs of two files are compared by it
  int concurrency = 0;       // closed loop; 0: open
  double rate = 0.0;         // open loop, requests per second
  bool interrupted = false;  // by the user; what had not finished is not in `requests`
  int unfinished = 0;        // requests that were cut short
  double cpu_s = 0.0;        // CPU time that this process took meanwhile
  bool server_lost = false;  // given up: nothing answered any more
  std::vector<RequestRecord> requests;

  bool operator==(const RunResult&) const = default;
};

// "RESOURCE_EXHAUSTED"; "CODE_99" for what gRPC does not have.
std::string CodeName(int code);

}  // namespace tandem::bench
