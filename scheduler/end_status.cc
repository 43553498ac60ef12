#include "scheduler/end_status.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvcache/block_table.h"
#include "scheduler/status_reason.h"

namespace tandem::scheduler {
namespace {

constexpr int kMaxChoices = 1024;  // each is a sequence; servers allow far fewer

using Metadata = std::map<std::string, std::string>;

absl::Status Make(absl::StatusCode code, const std::string& message, const char* reason,
                  Metadata metadata = {}, const char* field = "") {
  return WithReason(absl::Status(code, message),
                    {.reason = reason, .metadata = std::move(metadata), .field = field});
}

absl::Status BadRequest(const std::string& message, const char* reason, const char* field) {
  return Make(absl::StatusCode::kInvalidArgument, message, reason, {}, field);
}

Metadata QueueMs(int64_t waited_us) { return {{"queue_ms", absl::StrCat(waited_us / 1000)}}; }

}  // namespace

absl::Status CheckRequest(const Request& request, const ModelLimits& limits) {
  const int64_t prompt_tokens = static_cast<int64_t>(request.prompt.size());
  if (prompt_tokens == 0) {
    return BadRequest("the prompt is empty; send at least one token", "EMPTY_PROMPT", "prompt");
  }
  if (prompt_tokens >= limits.max_context) {
    const int max_prompt = limits.max_context - 1;
    return Make(absl::StatusCode::kInvalidArgument,
                absl::StrCat("the prompt is ", prompt_tokens, " tokens but at most ", max_prompt,
                             " fit the context; shorten it"),
                "PROMPT_TOO_LONG",
                {{"prompt_tokens", absl::StrCat(prompt_tokens)},
                 {"max_prompt_tokens", absl::StrCat(max_prompt)}});
  }
  const int max_known = MaxSequenceTokens(limits);
  if (prompt_tokens >= max_known) {
    const int needed = kvcache::BlocksFor(prompt_tokens + 1, limits.block_tokens);
    const int total = max_known / limits.block_tokens;  // the pool, not the context, is the limit
    return Make(
        absl::StatusCode::kInvalidArgument,
        absl::StrCat("the prompt is ", prompt_tokens, " tokens and needs ", needed,
                     " KV blocks but the pool has ", total, "; shorten it or raise the KV memory"),
        "EXCEEDS_KV_CAPACITY",
        {{"needed_blocks", absl::StrCat(needed)}, {"total_blocks", absl::StrCat(total)}});
  }
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    const int32_t id = request.prompt[i];
    if (id >= 0 && id < limits.vocab_size) continue;
    return BadRequest(absl::StrCat("prompt token ", i, " is id ", id, " but the vocabulary has ",
                                   limits.vocab_size, " ids"),
                      "BAD_TOKEN_ID", "prompt");
  }
  if (request.n < 1 || request.n > kMaxChoices) {
    return BadRequest(absl::StrCat("n is ", request.n, "; ask for 1 to ", kMaxChoices, " choices"),
                      "BAD_PARAMETER", "sampling.n");
  }
  if (request.stop.max_tokens < 0) {
    return BadRequest(
        absl::StrCat("max_tokens is ", request.stop.max_tokens, "; it must not be negative"),
        "BAD_PARAMETER", "stopping.max_tokens");
  }
  return absl::OkStatus();
}

absl::Status QueueFullStatus(int64_t queued, int64_t max_queued, std::string_view unit) {
  return Make(absl::StatusCode::kResourceExhausted,
              absl::StrCat("the queue holds ", queued, " ", std::string(unit), ", its limit is ",
                           max_queued, "; retry later"),
              "QUEUE_FULL",
              {{absl::StrCat("queued_", std::string(unit)), absl::StrCat(queued)},
               {absl::StrCat("max_queued_", std::string(unit)), absl::StrCat(max_queued)}});
}

absl::Status NotStartedAtOnceStatus() {
  return Make(absl::StatusCode::kResourceExhausted,
              "the request would have had to wait and asked for reject_if_queued; retry elsewhere",
              "QUEUE_FULL");
}

absl::Status TenantLimitStatus(int64_t queued_requests, int64_t max_queued_per_tenant) {
  return Make(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat("the tenant has ", queued_requests, " requests in the queue, its limit is ",
                   max_queued_per_tenant, "; retry later"),
      "TENANT_LIMIT",
      {{"queued_requests", absl::StrCat(queued_requests)},
       {"max_queued_per_tenant", absl::StrCat(max_queued_per_tenant)}});
}

absl::Status DrainingStatus() {
  return Make(absl::StatusCode::kUnavailable, "the server is shutting down; retry elsewhere",
              "DRAINING");
}

absl::Status EngineDownStatus() {
  return Make(absl::StatusCode::kUnavailable, "the engine has failed; retry elsewhere",
              "ENGINE_DOWN");
}

absl::Status CancelStatus(CancelCause cause, int completion_tokens) {
  switch (cause) {
    case CancelCause::kClientGone:
      return Make(absl::StatusCode::kCancelled, "the client went away", "CLIENT_CANCELLED");
    case CancelCause::kAborted:
      if (completion_tokens > 0) return absl::OkStatus();
      return Make(absl::StatusCode::kCancelled, "aborted by request before any token",
                  "ABORTED_BY_REQUEST");
    case CancelCause::kDeadline:
      return Make(absl::StatusCode::kDeadlineExceeded, "the deadline has passed", "DEADLINE");
    case CancelCause::kDrain:
      return Make(
          absl::StatusCode::kUnavailable,
          absl::StrCat("the server shut down after ", completion_tokens, " tokens of this request"),
          "SHUTTING_DOWN", {{"completion_tokens", absl::StrCat(completion_tokens)}});
    case CancelCause::kSlowConsumer:
      return Make(absl::StatusCode::kAborted, "the client reads too slowly", "SLOW_CONSUMER");
  }
  return absl::InternalError("unknown cancel cause");
}

absl::Status DeadlineStatus(int64_t waited_us) {
  return Make(absl::StatusCode::kDeadlineExceeded,
              absl::StrCat("the deadline has passed; the request waited ", waited_us / 1000,
                           " ms in the queue"),
              "DEADLINE", QueueMs(waited_us));
}

absl::Status DeadlineUnattainableStatus(int64_t predicted_us, int64_t left_us) {
  const int64_t predicted_ms = predicted_us / 1000;
  const int64_t left_ms = left_us / 1000;
  return Make(
      absl::StatusCode::kDeadlineExceeded,
      absl::StrCat("the first token is expected in ", predicted_ms, " ms but the deadline is in ",
                   left_ms, " ms; retry elsewhere or allow more time"),
      "DEADLINE_UNATTAINABLE",
      {{"predicted_ms", absl::StrCat(predicted_ms)},
       {"left_ms", absl::StrCat(left_ms)},
       {"queue_ms", "0"}});
}

absl::Status QueueTimeoutStatus(int64_t waited_us) {
  return Make(absl::StatusCode::kDeadlineExceeded,
              absl::StrCat("the request was not scheduled within its queue timeout; it waited ",
                           waited_us / 1000, " ms"),
              "QUEUE_TIMEOUT", QueueMs(waited_us));
}

absl::Status KvExhaustedStatus(int preemptions) {
  const std::string preempted =
      preemptions == 0 ? ""
                       : absl::StrCat(" and the request was preempted ", preemptions, " times");
  return Make(absl::StatusCode::kResourceExhausted,
              absl::StrCat("the KV cache ran out", preempted, "; retry later"), "KV_EXHAUSTED");
}

absl::Status NumericFailureStatus(int64_t step, int position) {
  return Make(absl::StatusCode::kInternal,
              absl::StrCat("the logits at position ", position, " are not finite"),
              "NUMERIC_FAILURE",
              {{"step", absl::StrCat(step)}, {"position", absl::StrCat(position)}});
}

absl::Status BrokenRowsStatus(int64_t step, int first_position, int rows) {
  return Make(absl::StatusCode::kInternal,
              absl::StrCat("a key or value of positions ", first_position, " to ",
                           first_position + rows - 1, " is not finite"),
              "NUMERIC_FAILURE",
              {{"step", absl::StrCat(step)}, {"position", absl::StrCat(first_position)}});
}

absl::Status EngineFailureStatus() {
  return Make(absl::StatusCode::kInternal, "the engine failed; the server's log says why",
              "ENGINE_FAILURE");
}

}  // namespace tandem::scheduler
