#include "server/grpc/generation_run.h"

#include <algorithm>
#include <variant>

#include "absl/strings/str_cat.h"
#include "server/grpc/chat_parser.h"
#include "server/grpc/request_errors.h"
#include "server/grpc/request_parser.h"
#include "spdlog/spdlog.h"

namespace tandem::server {
namespace {

constexpr int64_t kBytesPerToken = 3;  // of text that is not yet tokenized

// Prompt tokens over all choices; exact for ids, a guess for text.
int64_t EstimatedTokens(const GenerationSpec& spec) {
  int64_t tokens = 0;
  if (const auto* text = std::get_if<TextPrompt>(&spec.prompt)) {
    tokens = static_cast<int64_t>(text->text.size()) / kBytesPerToken + 1;
  } else {
    tokens = static_cast<int64_t>(std::get<std::vector<int32_t>>(spec.prompt).size());
  }
  if (spec.truncate_prompt_tokens.has_value()) {
    tokens = std::min<int64_t>(tokens, *spec.truncate_prompt_tokens);
  }
  return tokens * spec.request.n;
}

}  // namespace

absl::Status GenerationRun::Prepare(const v1::GenerateRequest& proto, const CallFacts& call) {
  const absl::StatusOr<const LoadedModel*> model = core_.Model();
  if (!model.ok()) return model.status();
  model_ = *model;
  return Enter(ParseGenerateRequest(proto, model_->model, core_.limits(), call), call);
}

absl::Status GenerationRun::Prepare(const v1::ChatRequest& proto, const CallFacts& call) {
  const absl::StatusOr<const LoadedModel*> model = core_.Model();
  if (!model.ok()) return model.status();
  model_ = *model;
  return Enter(ParseChatRequest(proto, model_->model, core_.limits(), call), call);
}

absl::Status GenerationRun::Enter(absl::StatusOr<ParsedRequest> parsed, const CallFacts& call) {
  if (!parsed.ok()) return parsed.status();
  const scheduler::Request& request = parsed->spec.request;
  arrival_us_ = call.arrival_us;
  max_tokens_ = std::max(0, request.stop.max_tokens);
  tenant_ = request.tenant;
  user_digest_ = parsed->user_digest;
  const absl::StatusOr<ActiveCalls::Ticket> ticket = core_.calls().Begin(parsed->request_id);
  if (!ticket.ok()) return ticket.status();
  ticket_ = *ticket;
  facts_ = {.request_id = parsed->request_id,
            .model = model_->model.name,
            .fingerprint = model_->fingerprint,
            .seed = request.sampling.seed,
            .n = request.n,
            .logprobs = request.logprobs.enabled,
            .prompt_logprobs = request.prompt_logprobs.enabled,
            .speculation = request.speculation,
            .report = parsed->report,
            .vocabulary = &model_->backend.tokenizer->vocabulary()};
  last_token_us_.resize(request.n);
  absl::StatusOr<scheduler::Reservation> place =
      model_->backend.scheduler->Reserve({.tenant = request.tenant,
                                          .prompt_tokens = EstimatedTokens(parsed->spec),
                                          .bytes = call.message_bytes,
                                          .deadline_us = request.deadline_us});
  if (!place.ok()) return place.status();
  parsed->spec.reservation = *std::move(place);
  parsed_ = *std::move(parsed);
  return absl::OkStatus();
}

void GenerationRun::Start(OutputSink sink) {
  Generator& generator = *model_->backend.generator;
  const Generator::Handle handle = generator.Start(std::move(parsed_->spec), std::move(sink));
  if (const auto told = core_.calls().SetHandle(*ticket_, handle); told.has_value()) Cancel(*told);
  std::optional<scheduler::CancelCause> cause;
  {
    const std::lock_guard lock(mutex_);
    handle_ = handle;
    cause = pending_cancel_;
    if (paused_) generator.Pause(handle);
  }
  if (cause.has_value()) generator.Cancel(handle, *cause);
}

void GenerationRun::Cancel(scheduler::CancelCause cause) {
  std::optional<Generator::Handle> handle;
  {
    const std::lock_guard lock(mutex_);
    handle = handle_;
    if (!handle.has_value() && !pending_cancel_.has_value()) pending_cancel_ = cause;
  }
  if (handle.has_value()) model_->backend.generator->Cancel(*handle, cause);
}

// Under the lock, so that the Generator is told in the order in which this is called.
void GenerationRun::SetPaused(bool paused) {
  const std::lock_guard lock(mutex_);
  paused_ = paused;
  if (!handle_.has_value()) return;
  Generator& generator = *model_->backend.generator;
  if (paused) {
    generator.Pause(*handle_);
  } else {
    generator.Resume(*handle_);
  }
}

bool GenerationRun::Observe(OutputEvent& event) {
  switch (event.kind) {
    case OutputEvent::Kind::kStarted: {
      started_ = true;
      const auto tokens = static_cast<int>(event.prompt_ids.size());
      if (const int limit = core_.config().max_prompt_logprob_tokens;
          facts_.prompt_logprobs && tokens > limit) {
        refusal_ = BadParameter("output.prompt_logprobs",
                                absl::StrCat("is set for a prompt of ", tokens, " tokens; at most ",
                                             limit, " can be scored"));
        Cancel(scheduler::CancelCause::kAborted);
      }
      break;
    }
    case OutputEvent::Kind::kDelta:
      CountTokens(event);
      break;
    case OutputEvent::Kind::kFinished:
      finished_ = true;
      stats_ = event.stats;
      if (!refusal_.ok()) event.status = refusal_;
      return true;
    case OutputEvent::Kind::kChoiceFinished:
      absl::StrAppend(&finish_, finish_.empty() ? "" : ",",
                      scheduler::FinishReasonName(event.reason));
      break;
    case OutputEvent::Kind::kPromptLogprobs:
      break;
  }
  return refusal_.ok();
}

void GenerationRun::CountTokens(const OutputEvent& delta) {
  if (delta.tokens.empty()) return;
  const int64_t now_us = model_->backend.scheduler->now_us();
  int64_t& last_us = last_token_us_[delta.choice];
  if (!first_token_) {
    first_token_ = true;
    core_.metrics().OnFirstToken(now_us - arrival_us_);
  }
  if (last_us != 0) {
    core_.metrics().OnMoreTokens(now_us - last_us, static_cast<int>(delta.tokens.size()));
  }
  last_us = now_us;
}

Closing GenerationRun::Close(const absl::Status& status) {
  Closing closing{.status = core_.Wire(status), .trailers = {}};
  if (ticket_.has_value()) core_.calls().End(*ticket_);
  core_.metrics().OnRequestDone({.status = status,
                                 .reason = closing.status.reason,
                                 .started = started_,
                                 .n = facts_.n,
                                 .max_tokens = max_tokens_,
                                 .tenant = tenant_,
                                 .stats = stats_});
  core_.metrics().OnGrpcCall(method_, closing.status.code);
  if (finished_) {
    const auto add = [&](const char* key, int64_t value) {
      closing.trailers.emplace_back(key, absl::StrCat(value));
    };
    add("x-tandem-queue-ms", stats_.queue_us / 1000);
    add("x-tandem-ttft-ms", stats_.ttft_us / 1000);
    add("x-tandem-prompt-tokens", stats_.prompt_tokens);
    add("x-tandem-cached-tokens", stats_.cached_prompt_tokens);
    add("x-tandem-completion-tokens", stats_.completion_tokens);
    add("x-tandem-drafted-tokens", stats_.drafts.drafted);
    add("x-tandem-accepted-tokens", stats_.drafts.accepted);
  }
  if (ticket_.has_value()) {
    const auto ms = [](int64_t us) { return static_cast<double>(us) * 1e-3; };
    // Choices decode side by side; the time between tokens is that of one of them.
    const double gaps = static_cast<double>(stats_.completion_tokens) / facts_.n - 1.0;
    const auto or_dash = [](const std::string& text) { return text.empty() ? "-" : text; };
    spdlog::info(
        "request done: id={} method={} code={} reason={} finish={} prompt_tokens={} "
        "cached_tokens={} output_tokens={} drafted={} accepted={} queue_ms={:.1f} ttft_ms={:.1f} "
        "itl_ms={:.2f} "
        "total_ms={:.1f} preemptions={} paused_ms={:.1f} user={}",
        facts_.request_id, method_, closing.status.code,
        closing.status.reason.empty() ? "OK" : closing.status.reason, or_dash(finish_),
        stats_.prompt_tokens, stats_.cached_prompt_tokens, stats_.completion_tokens,
        stats_.drafts.drafted, stats_.drafts.accepted, ms(stats_.queue_us), ms(stats_.ttft_us),
        gaps > 0 ? ms(stats_.decode_us) / gaps : 0.0, ms(stats_.total_us), stats_.preemptions,
        ms(stats_.paused_us), or_dash(user_digest_));
  } else {
    spdlog::info("request refused: method={} code={} reason={} message=\"{}\"", method_,
                 closing.status.code, closing.status.reason, closing.status.message);
  }
  return closing;
}

}  // namespace tandem::server
