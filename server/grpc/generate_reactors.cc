#include "server/grpc/generate_reactors.h"

#include <chrono>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

#include "server/grpc/generation_run.h"
#include "server/grpc/request_id.h"
#include "server/grpc/stream_mailbox.h"
#include "server/grpc/unary_answer.h"
#include "server/grpc/wire_message.h"

namespace tandem::server {
namespace {

using SystemClock = std::chrono::system_clock;
using scheduler::CancelCause;

std::string_view Header(const grpc::CallbackServerContext& context, const char* key) {
  const auto found = context.client_metadata().find(key);
  if (found == context.client_metadata().end()) return {};
  return {found->second.data(), found->second.size()};
}

// gRPC's deadline timer runs on another clock and may be a little early.
constexpr std::chrono::milliseconds kClockSlack{10};

// Why a call was cancelled from outside: gRPC tells only that it was.
CancelCause CauseOf(const grpc::CallbackServerContext& context) {
  return SystemClock::now() + kClockSlack >= context.deadline() ? CancelCause::kDeadline
                                                                : CancelCause::kClientGone;
}

CallFacts FactsOf(const grpc::CallbackServerContext& context, ServiceCore& core, bool streaming) {
  CallFacts facts{.streaming = streaming,
                  .request_id_header = Header(context, "x-request-id"),
                  .tenant_header = Header(context, "x-tenant-id"),
                  .generated_id = NewRequestId(),
                  .random_seed = RandomBits()};
  if (facts.tenant_header.empty()) {
    facts.tenant_header = Header(context, "x-llm-d-inference-fairness-id");
  }
  const auto model = core.Model();
  if (!model.ok()) return facts;  // Prepare will say so
  facts.arrival_us = (*model)->backend.scheduler->now_us();
  if (const auto deadline = context.deadline(); deadline != SystemClock::time_point::max()) {
    const auto left =
        std::chrono::duration_cast<std::chrono::microseconds>(deadline - SystemClock::now());
    facts.deadline_us = facts.arrival_us + left.count();
  } else if (core.config().default_deadline_s > 0) {
    facts.deadline_us = facts.arrival_us + core.config().default_deadline_s * 1'000'000;
  }
  return facts;
}

void AddInitialMetadata(grpc::CallbackServerContext& context, ServiceCore& core,
                        const AnswerFacts& facts) {
  context.AddInitialMetadata("x-request-id", facts.request_id);
  if (!core.config().replica.empty()) {
    context.AddInitialMetadata("x-tandem-replica", core.config().replica);
  }
  if (const auto model = core.Model(); model.ok() && !(*model)->model.revision.empty()) {
    context.AddInitialMetadata("x-tandem-model-revision", (*model)->model.revision);
  }
}

// Parses and prepares; what both kinds of call do first.
absl::Status Prepare(GenerationRun& run, const grpc::ByteBuffer& request, const CallFacts& facts) {
  const auto proto = ParseMessage<v1::GenerateRequest>(request);
  if (!proto.ok()) return proto.status();
  return run.Prepare(*proto, facts);
}

grpc::Status CloseCall(GenerationRun& run, const absl::Status& status,
                       grpc::CallbackServerContext& context) {
  const Closing closing = run.Close(status);
  for (const auto& [key, value] : closing.trailers) context.AddTrailingMetadata(key, value);
  return ToGrpcStatus(closing.status);
}

class UnaryGenerate final : public grpc::ServerUnaryReactor {
 public:
  UnaryGenerate(ServiceCore& core, grpc::CallbackServerContext* context, grpc::ByteBuffer* response)
      : core_(core), context_(*context), response_(*response), run_(core, "Generate") {}

  void Begin(const grpc::ByteBuffer& request) {
    const absl::Status prepared =
        Prepare(run_, request, FactsOf(context_, core_, /*streaming=*/false));
    if (!prepared.ok()) return Finish(CloseCall(run_, prepared, context_));
    answer_.emplace(run_.facts(), SystemClock::to_time_t(SystemClock::now()));
    run_.Start([this](OutputEvent event) { OnEvent(std::move(event)); });
  }

  void OnCancel() override { run_.Cancel(CauseOf(context_)); }
  void OnDone() override { delete this; }

 private:
  void OnEvent(OutputEvent event) {
    if (!run_.Observe(event)) return;
    answer_->Add(event);
    if (event.kind != OutputEvent::Kind::kFinished) return;
    if (event.status.ok()) {
      AddInitialMetadata(context_, core_, run_.facts());
      response_ = SerializeMessage(answer_->response());
    }
    Finish(CloseCall(run_, event.status, context_));  // the last access to *this
  }

  ServiceCore& core_;
  grpc::CallbackServerContext& context_;
  grpc::ByteBuffer& response_;
  GenerationRun run_;
  std::optional<UnaryAnswer> answer_;
};

class TokenStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  TokenStream(ServiceCore& core, grpc::CallbackServerContext* context)
      : core_(core), context_(*context), run_(core, "GenerateStream") {}

  void Begin(const grpc::ByteBuffer& request) {
    const absl::Status prepared =
        Prepare(run_, request, FactsOf(context_, core_, /*streaming=*/true));
    if (!prepared.ok()) return Finish(CloseCall(run_, prepared, context_));
    mailbox_.emplace(run_.facts());
    run_.Start([this](OutputEvent event) { OnEvent(std::move(event)); });
  }

  void OnCancel() override { run_.Cancel(CauseOf(context_)); }
  void OnDone() override { delete this; }

  void OnWriteDone(bool ok) override {
    if (!ok) run_.Cancel(CauseOf(context_));
    std::unique_lock lock(mutex_);
    writing_ = false;
    broken_ = broken_ || !ok;
    Continue(std::move(lock));
  }

 private:
  void OnEvent(OutputEvent event) {
    if (!run_.Observe(event)) return;
    std::unique_lock lock(mutex_);
    if (event.kind == OutputEvent::Kind::kStarted) {
      AddInitialMetadata(context_, core_, run_.facts());
    }
    if (!broken_) mailbox_->Add(event);
    if (event.kind == OutputEvent::Kind::kFinished) {
      end_status_ = event.status;
    } else if (LagsTooLong()) {
      broken_ = true;  // the rest would not be read either
      lock.unlock();
      return run_.Cancel(CancelCause::kSlowConsumer);
    }
    Continue(std::move(lock));
  }

  // Whether the client has been far behind for longer than the limit.
  bool LagsTooLong() {
    const GrpcConfig& config = core_.config();
    if (mailbox_->waiting_tokens() <= config.stream_buffer_tokens &&
        mailbox_->waiting_bytes() <= config.stream_buffer_bytes) {
      lagging_since_us_.reset();
      return false;
    }
    const int64_t now_us = scheduler::MonotonicNowUs();
    if (!lagging_since_us_.has_value()) lagging_since_us_ = now_us;
    return now_us - *lagging_since_us_ >= config.slow_consumer_timeout_s * 1'000'000;
  }

  // Writes the next message, or finishes, unless a write is under way. Takes the lock along because
  // gRPC may call back, and finishing may delete *this.
  void Continue(std::unique_lock<std::mutex> lock) {
    if (writing_) return;
    if (broken_) mailbox_->Clear();
    if (!mailbox_->empty()) {
      writing_ = true;
      current_ = SerializeMessage(mailbox_->Pop());
      lock.unlock();
      StartWrite(&current_);
    } else if (end_status_.has_value()) {
      lock.unlock();
      Finish(CloseCall(run_, *end_status_, context_));  // the last access to *this
    }
  }

  ServiceCore& core_;
  grpc::CallbackServerContext& context_;
  GenerationRun run_;

  std::mutex mutex_;  // all below
  std::optional<StreamMailbox> mailbox_;
  grpc::ByteBuffer current_;  // being written
  bool writing_ = false;
  bool broken_ = false;  // nothing more can reach the client but the status
  std::optional<absl::Status> end_status_;
  std::optional<int64_t> lagging_since_us_;
};

}  // namespace

grpc::ServerUnaryReactor* StartGenerate(ServiceCore& core, grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer& request,
                                        grpc::ByteBuffer* response) {
  auto* reactor = new UnaryGenerate(core, context, response);  // deletes itself in OnDone
  reactor->Begin(request);
  return reactor;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerateStream(
    ServiceCore& core, grpc::CallbackServerContext* context, const grpc::ByteBuffer& request) {
  auto* reactor = new TokenStream(core, context);  // deletes itself in OnDone
  reactor->Begin(request);
  return reactor;
}

}  // namespace tandem::server
