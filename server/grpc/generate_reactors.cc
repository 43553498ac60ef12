#include "server/grpc/generate_reactors.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

#include "scheduler/end_status.h"
#include "server/grpc/generation_run.h"
#include "server/grpc/request_id.h"
#include "server/grpc/stream_mailbox.h"
#include "server/grpc/unary_answer.h"
#include "server/grpc/wire_message.h"

namespace tandem::server {
namespace {

using SystemClock = std::chrono::system_clock;
using scheduler::CancelCause;

// The two families of calls differ in their messages only.
struct GenerateFamily {
  using Request = v1::GenerateRequest;
  using Response = v1::GenerateResponse;
  using Event = v1::GenerateEvent;
  static constexpr char kUnary[] = "Generate";
  static constexpr char kStream[] = "GenerateStream";
};
struct ChatFamily {
  using Request = v1::ChatRequest;
  using Response = v1::ChatResponse;
  using Event = v1::ChatEvent;
  static constexpr char kUnary[] = "Chat";
  static constexpr char kStream[] = "ChatStream";
};

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

CallFacts FactsOf(const grpc::CallbackServerContext& context, ServiceCore& core, bool streaming,
                  const grpc::ByteBuffer& request) {
  CallFacts facts{.streaming = streaming,
                  .request_id_header = Header(context, "x-request-id"),
                  .tenant_header = Header(context, "x-tenant-id"),
                  .generated_id = NewRequestId(),
                  .random_seed = RandomBits(),
                  .message_bytes = static_cast<int64_t>(request.Length())};
  if (context.client_metadata().count("x-tandem-spec") > 0) {
    facts.spec_header = Header(context, "x-tandem-spec");
  }
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
template <class Request>
absl::Status Prepare(GenerationRun& run, const grpc::ByteBuffer& request, const CallFacts& facts) {
  const auto proto = ParseMessage<Request>(request);
  if (!proto.ok()) return proto.status();
  return run.Prepare(*proto, facts);
}

grpc::Status CloseCall(GenerationRun& run, const absl::Status& status,
                       grpc::CallbackServerContext& context) {
  const Closing closing = run.Close(status);
  for (const auto& [key, value] : closing.trailers) context.AddTrailingMetadata(key, value);
  return ToGrpcStatus(closing.status);
}

template <class Family>
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  UnaryCall(ServiceCore& core, grpc::CallbackServerContext* context, grpc::ByteBuffer* response)
      : core_(core), context_(*context), response_(*response), run_(core, Family::kUnary) {}

  void Begin(const grpc::ByteBuffer& request) {
    const absl::Status prepared = Prepare<typename Family::Request>(
        run_, request, FactsOf(context_, core_, /*streaming=*/false, request));
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
  std::optional<UnaryAnswer<typename Family::Response>> answer_;
};

template <class Family>
class StreamCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  StreamCall(ServiceCore& core, grpc::CallbackServerContext* context)
      : core_(core), context_(*context), run_(core, Family::kStream) {}

  void Begin(const grpc::ByteBuffer& request) {
    const absl::Status prepared = Prepare<typename Family::Request>(
        run_, request, FactsOf(context_, core_, /*streaming=*/true, request));
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
      CloseEarly();
    } else if (!broken_ && !patience_.has_value() && Lag() > 1.0) {
      OnLag();
    }
    Continue(std::move(lock));
  }

  // How full the mailbox is; above 1 the client lags too far behind.
  double Lag() const {
    const auto share = [](int64_t waiting, int64_t limit) {
      return static_cast<double>(waiting) / static_cast<double>(std::max<int64_t>(1, limit));
    };
    return std::max(share(mailbox_->waiting_tokens(), core_.config().stream_buffer_tokens),
                    share(mailbox_->waiting_bytes(), core_.config().stream_buffer_bytes));
  }

  // Under the lock.
  void OnLag() {
    if (!core_.config().pause_slow_consumers) return GiveUp();
    run_.SetPaused(true);
    const std::chrono::seconds timeout(core_.config().slow_consumer_timeout_s);
    patience_ = core_.timers().Start(CallTimers::Clock::now() + timeout, [this, pause = ++pauses_] {
      const std::lock_guard lock(mutex_);
      if (patience_.has_value() && pauses_ == pause) GiveUp();
    });
  }

  // Under the lock: nothing more can reach the client but the status.
  void GiveUp() {
    broken_ = true;
    mailbox_->Clear();
    if (!end_status_.has_value()) return run_.Cancel(CancelCause::kSlowConsumer);
    end_status_ = scheduler::CancelStatus(CancelCause::kSlowConsumer, /*completion_tokens=*/0);
    CloseEarly();
  }

  // Under the lock, when the request has ended. A reader who was given up may never take the
  // message under way: the call then stays open for the status, but nobody waits for it any more.
  void CloseEarly() {
    if (broken_ && writing_) closed_ = CloseCall(run_, *end_status_, context_);
  }

  // Writes the next message, or finishes, unless a write is under way. Takes the lock along because
  // gRPC may call back, and finishing may delete *this.
  void Continue(std::unique_lock<std::mutex> lock) {
    if (writing_) return;
    if (broken_) mailbox_->Clear();
    if (!mailbox_->empty()) {
      writing_ = true;
      current_ = SerializeMessage(mailbox_->Pop());
      std::optional<CallTimers::Id> patience;
      if (patience_.has_value() && Lag() <= 0.5) {  // caught up by half
        patience = std::exchange(patience_, std::nullopt);
        run_.SetPaused(false);
      }
      Unlock(std::move(lock), patience);
      StartWrite(&current_);
    } else if (end_status_.has_value()) {
      Unlock(std::move(lock), std::exchange(patience_, std::nullopt));
      Finish(closed_.has_value() ? *closed_ : CloseCall(run_, *end_status_, context_));
    }
  }

  // Unlocks, and then waits for a timer that may be about to take the lock.
  void Unlock(std::unique_lock<std::mutex> lock, std::optional<CallTimers::Id> timer) {
    lock.unlock();
    if (timer.has_value()) core_.timers().Cancel(*timer);
  }

  ServiceCore& core_;
  grpc::CallbackServerContext& context_;
  GenerationRun run_;

  std::mutex mutex_;  // all below
  std::optional<StreamMailbox<typename Family::Event>> mailbox_;
  grpc::ByteBuffer current_;  // being written
  bool writing_ = false;
  bool broken_ = false;                     // nothing more can reach the client but the status
  std::optional<CallTimers::Id> patience_;  // while paused for a client that lags behind
  int64_t pauses_ = 0;
  std::optional<absl::Status> end_status_;
  std::optional<grpc::Status> closed_;
};

// Both delete themselves in OnDone.
template <class Family>
grpc::ServerUnaryReactor* StartUnary(ServiceCore& core, grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer& request, grpc::ByteBuffer* response) {
  auto* reactor = new UnaryCall<Family>(core, context, response);
  reactor->Begin(request);
  return reactor;
}

template <class Family>
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartStream(ServiceCore& core,
                                                        grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer& request) {
  auto* reactor = new StreamCall<Family>(core, context);
  reactor->Begin(request);
  return reactor;
}

}  // namespace

grpc::ServerUnaryReactor* StartGenerate(ServiceCore& core, grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer& request,
                                        grpc::ByteBuffer* response) {
  return StartUnary<GenerateFamily>(core, context, request, response);
}

grpc::ServerUnaryReactor* StartChat(ServiceCore& core, grpc::CallbackServerContext* context,
                                    const grpc::ByteBuffer& request, grpc::ByteBuffer* response) {
  return StartUnary<ChatFamily>(core, context, request, response);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerateStream(
    ServiceCore& core, grpc::CallbackServerContext* context, const grpc::ByteBuffer& request) {
  return StartStream<GenerateFamily>(core, context, request);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartChatStream(ServiceCore& core,
                                                            grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer& request) {
  return StartStream<ChatFamily>(core, context, request);
}

}  // namespace tandem::server
