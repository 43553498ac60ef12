#include "server/cli/chat_remote.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <mutex>
#include <utility>

#include "absl/strings/str_format.h"
#include "scheduler/status_reason.h"
#include "tandem/rpc/error_details.pb.h"
#include "tandem/v1/generation.grpc.pb.h"

namespace tandem::server {
namespace {

namespace pb = ::tandem::v1;

constexpr std::chrono::seconds kPatience{10};  // for the answer about the model

StatusReason ReasonOf(const grpc::Status& status) {
  StatusReason reason;
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return reason;
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::ErrorInfo info;
    if (!detail.UnpackTo(&info)) continue;
    reason.reason = info.reason();
    reason.metadata = {info.metadata().begin(), info.metadata().end()};
  }
  return reason;
}

// What went wrong, for a person who may know nothing of gRPC.
std::string TroubleText(const std::string& address, const grpc::Status& status,
                        const std::string& reason) {
  const std::string said = status.error_message();
  if (reason == "DRAINING") {
    return absl::StrFormat(
        "the server at %s is shutting down and takes nothing new; connect to "
        "another one, or wait until it is back",
        address);
  }
  if (reason == "SHUTTING_DOWN") {
    return absl::StrFormat("the server at %s shut down before the answer was complete", address);
  }
  if (reason == "MODEL_LOADING") {
    return absl::StrFormat("the server at %s is still loading its model; try again in a moment",
                           address);
  }
  if (reason == "QUEUE_FULL" || reason == "TENANT_LIMIT") {
    return absl::StrFormat("the server at %s has too much to do (%s); try again in a moment",
                           address, said);
  }
  if (!reason.empty()) return said;
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return absl::StrFormat("nothing answers at %s (%s); is `tandem serve` running there?",
                             address, said);
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return absl::StrFormat("%s does not answer; is it the gRPC port of `tandem serve`?", address);
    case grpc::StatusCode::UNIMPLEMENTED:
      return absl::StrFormat("the server at %s can not chat (%s)", address, said);
    default:
      return absl::StrFormat("the server at %s answers code %d: %s", address,
                             static_cast<int>(status.error_code()), said);
  }
}

absl::Status Trouble(const std::string& address, const grpc::Status& status) {
  const StatusReason reason = ReasonOf(status);
  const absl::Status trouble(static_cast<absl::StatusCode>(status.error_code()),
                             TroubleText(address, status, reason.reason));
  return reason.reason.empty() ? trouble : WithReason(trouble, reason);
}

pb::Role RoleOf(ChatRole role) {
  switch (role) {
    case ChatRole::kSystem:
      return pb::SYSTEM;
    case ChatRole::kUser:
      return pb::USER;
    case ChatRole::kAssistant:
      return pb::ASSISTANT;
    case ChatRole::kTool:
      return pb::TOOL;
    case ChatRole::kDeveloper:
      return pb::DEVELOPER;
  }
  return pb::ROLE_UNSPECIFIED;
}

pb::ChatRequest RequestOf(const std::vector<ChatMessage>& messages, const ChatSettings& settings) {
  pb::ChatRequest request;
  for (const ChatMessage& message : messages) {
    pb::ChatMessage& out = *request.add_messages();
    out.set_role(RoleOf(message.role));
    out.set_content(message.content);
    out.set_reasoning(message.reasoning);
  }
  request.set_enable_thinking(settings.thinking);
  request.set_separate_reasoning(true);
  if (settings.temperature.has_value()) {
    request.mutable_sampling()->set_temperature(static_cast<float>(*settings.temperature));
  }
  if (settings.top_k.has_value()) request.mutable_sampling()->set_top_k(*settings.top_k);
  if (settings.top_p.has_value()) {
    request.mutable_sampling()->set_top_p(static_cast<float>(*settings.top_p));
  }
  if (settings.seed.has_value()) request.mutable_sampling()->set_seed(*settings.seed);
  if (settings.max_tokens > 0) {
    request.mutable_stopping()->set_max_tokens(static_cast<uint32_t>(settings.max_tokens));
  }
  request.mutable_output()->set_token_ids(false);
  request.mutable_output()->set_timing(true);
  request.mutable_output()->set_speculative_stats(true);
  return request;
}

AnswerPiece PieceOf(const pb::ChatDelta& delta) {
  AnswerPiece piece = {.reasoning = delta.reasoning(), .content = delta.content()};
  // No tools are offered; a call all the same is shown as what it is.
  for (const pb::ToolCallDelta& call : delta.tool_calls()) {
    piece.content += "[call " + call.name() + " " + call.arguments_delta() + "]";
  }
  return piece;
}

ChatAnswer::End EndOf(pb::FinishReason reason) {
  switch (reason) {
    case pb::MAX_TOKENS:
      return ChatAnswer::End::kMaxTokens;
    case pb::CONTEXT_LENGTH:
      return ChatAnswer::End::kContextFull;
    case pb::ABORTED:
      return ChatAnswer::End::kStopped;
    default:
      return ChatAnswer::End::kTurn;
  }
}

}  // namespace

struct RemoteChat::Impl {
  std::string address;
  std::unique_ptr<pb::Generation::Stub> stub;
  ChatBackend backend;

  std::mutex mutex;                        // guards what is below
  grpc::ClientContext* running = nullptr;  // the call that is being answered
  bool stopped = false;                    // by Stop

  absl::Status AskForModel();
  ChatAnswer Ask(const std::vector<ChatMessage>& messages, const ChatSettings& settings,
                 const std::function<void(const AnswerPiece&)>& on_piece);
  void Stop();
};

absl::Status RemoteChat::Impl::AskForModel() {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  pb::ModelInfo model;
  const grpc::Status status = stub->GetModel(&context, pb::GetModelRequest(), &model);
  if (!status.ok()) return Trouble(address, status);
  backend = {.model = model.name(),
             .place = "at " + address,
             .max_context = static_cast<int>(model.context_length()),
             .ask =
                 [this](const std::vector<ChatMessage>& messages, const ChatSettings& settings,
                        const std::function<void(const AnswerPiece&)>& on_piece) {
                   return Ask(messages, settings, on_piece);
                 },
             .stop = [this] { Stop(); }};
  return absl::OkStatus();
}

ChatAnswer RemoteChat::Impl::Ask(const std::vector<ChatMessage>& messages,
                                 const ChatSettings& settings,
                                 const std::function<void(const AnswerPiece&)>& on_piece) {
  grpc::ClientContext context;
  {
    const std::lock_guard lock(mutex);
    running = &context;
    stopped = false;
  }
  ChatAnswer answer;
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&](std::chrono::steady_clock::time_point from) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
  };
  std::chrono::steady_clock::time_point first = begin;
  const auto stream = stub->ChatStream(&context, RequestOf(messages, settings));
  pb::ChatEvent event;
  while (stream->Read(&event)) {
    switch (event.event_case()) {
      case pb::ChatEvent::kAccepted:
        answer.prompt_tokens = static_cast<int>(event.accepted().prompt_tokens());
        break;
      case pb::ChatEvent::kDelta: {
        if (answer.ttft_s == 0.0) {
          answer.ttft_s = seconds(begin);
          first = std::chrono::steady_clock::now();
        }
        const AnswerPiece piece = PieceOf(event.delta());
        if (!piece.content.empty() || !piece.reasoning.empty()) on_piece(piece);
        break;
      }
      case pb::ChatEvent::kChoiceFinished:
        answer.end = EndOf(event.choice_finished().finish_reason());
        answer.completion_tokens = static_cast<int>(event.choice_finished().completion_tokens());
        answer.decode_s = seconds(first);
        break;
      case pb::ChatEvent::kCompleted:
        answer.cached_prompt_tokens =
            static_cast<int>(event.completed().usage().cached_prompt_tokens());
        answer.steps = static_cast<int>(event.completed().speculative().steps());
        answer.drafted_tokens = static_cast<int>(event.completed().speculative().drafted_tokens());
        answer.accepted_tokens =
            static_cast<int>(event.completed().speculative().accepted_tokens());
        break;
      case pb::ChatEvent::EVENT_NOT_SET:
        break;
    }
  }
  const grpc::Status status = stream->Finish();
  const std::lock_guard lock(mutex);
  running = nullptr;
  if (stopped && !status.ok()) {
    answer.end = ChatAnswer::End::kStopped;
  } else if (!status.ok()) {
    answer.status = Trouble(address, status);
  }
  return answer;
}

void RemoteChat::Impl::Stop() {
  const std::lock_guard lock(mutex);
  stopped = true;
  if (running != nullptr) running->TryCancel();
}

absl::StatusOr<std::unique_ptr<RemoteChat>> RemoteChat::Connect(const std::string& address) {
  auto impl = std::make_unique<Impl>();
  impl->address = address;
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetMaxReceiveMessageSize(-1);
  impl->stub = pb::Generation::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  if (absl::Status s = impl->AskForModel(); !s.ok()) return s;
  return std::unique_ptr<RemoteChat>(new RemoteChat(std::move(impl)));
}

RemoteChat::RemoteChat(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RemoteChat::~RemoteChat() = default;

const ChatBackend& RemoteChat::backend() const { return impl_->backend; }

}  // namespace tandem::server
