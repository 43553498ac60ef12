// One generation between its call and the Generator: identity, cancellation, and how it ended.
//
// In        a GenerateRequest or a ChatRequest, and what is known of the call.
// Out       the Generator's events, and at the end the words that close the call.
// Not here  gRPC (generate_reactors.h); the answer's messages (stream_mailbox.h, unary_answer.h).
// Threads   Start once; Cancel and SetPaused from any thread; Observe and Close as the events come,
//           one at a time.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/generation/generator.h"
#include "server/grpc/answer_messages.h"
#include "server/grpc/service_core.h"
#include "server/grpc/shared_fields.h"
#include "tandem/v1/chat.pb.h"
#include "tandem/v1/generate.pb.h"

namespace tandem::server {

// What a call ends with.
struct Closing {
  WireStatus status;
  std::vector<std::pair<std::string, std::string>> trailers;
};

class GenerationRun {
 public:
  // `method` as metrics name it.
  GenerationRun(ServiceCore& core, const char* method) : core_(core), method_(method) {}

  // Checks, takes the id, and takes a place in the queue.
  //   errors  as ParseGenerateRequest and ParseChatRequest; kAlreadyExists; kUnavailable; those of
  //           Scheduler::Reserve. Then only Close follows
  absl::Status Prepare(const v1::GenerateRequest& proto, const CallFacts& call);
  absl::Status Prepare(const v1::ChatRequest& proto, const CallFacts& call);
  // After Prepare. `sink` gets the events, each of which must pass Observe first.
  void Start(OutputSink sink);
  // Of a prepared request.
  const AnswerFacts& facts() const { return facts_; }

  // Idempotent. The events still end with kFinished.
  void Cancel(scheduler::CancelCause cause);
  // Whether the request is to stay out of the batch, blocks held, because its client lags behind.
  void SetPaused(bool paused);

  // Takes note of the event; may replace the status of kFinished.
  //   returns  false for events that must not reach the client
  bool Observe(OutputEvent& event);

  // Frees the id, counts and logs. Once, before the call itself is finished, with what Prepare
  // returned or the status of kFinished.
  Closing Close(const absl::Status& status);

 private:
  absl::Status Enter(absl::StatusOr<ParsedRequest> parsed, const CallFacts& call);
  void CountTokens(const OutputEvent& delta);

  ServiceCore& core_;
  const char* const method_;
  const LoadedModel* model_ = nullptr;
  std::optional<ParsedRequest> parsed_;
  AnswerFacts facts_;
  int64_t arrival_us_ = 0;
  int max_tokens_ = 0;  // as asked; 0: not
  std::string tenant_;
  std::string user_digest_;
  std::optional<ActiveCalls::Ticket> ticket_;

  std::mutex mutex_;  // the fields below: all may come before Start has the handle
  std::optional<Generator::Handle> handle_;
  std::optional<scheduler::CancelCause> pending_cancel_;
  bool paused_ = false;

  absl::Status refusal_;  // replaces the status of kFinished when not OK
  bool started_ = false;
  bool first_token_ = false;
  bool finished_ = false;  // stats_ is valid
  scheduler::RequestStats stats_;
  std::string finish_;  // how the choices ended, in the order in which they did, for the log
  std::vector<int64_t> last_token_us_;  // by choice
};

}  // namespace tandem::server
