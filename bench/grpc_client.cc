#include "bench/grpc_client.h"

#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "tandem/rpc/error_details.pb.h"
#include "tandem/v1/generation.grpc.pb.h"

namespace tandem::bench {
namespace {

constexpr int kMaxReceiveBytes = 64 << 20;
constexpr int kAskSeconds = 10;  // for calls that only ask

// Reason and delay from grpc-status-details-bin; what is not there stays empty.
CallEnd EndOf(const grpc::Status& status) {
  CallEnd end;
  end.code = static_cast<int>(status.error_code());
  end.message = status.error_message();
  google::rpc::Status details;
  if (status.error_details().empty() || !details.ParseFromString(status.error_details()))
    return end;
  for (const google::protobuf::Any& any : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&info)) end.reason = info.reason();
    if (any.UnpackTo(&retry)) {
      const google::protobuf::Duration& delay = retry.retry_delay();
      end.retry_delay_us = delay.seconds() * 1'000'000 + delay.nanos() / 1000;
    }
  }
  return end;
}

v1::GenerateRequest RequestOf(const PlannedRequest& planned, const CallOptions& options) {
  v1::GenerateRequest request;
  if (planned.text.empty()) {
    request.mutable_token_ids()->mutable_ids()->Add(planned.prompt_ids.begin(),
                                                    planned.prompt_ids.end());
  } else {
    request.set_text(planned.text);
    // Prompts from files carry their turns as text.
    request.set_parse_special(true);
    request.set_add_bos(!planned.text.starts_with("<bos>"));
  }
  request.mutable_sampling()->set_seed(planned.seed);
  if (options.temperature.has_value()) {
    request.mutable_sampling()->set_temperature(static_cast<float>(*options.temperature));
  }
  request.mutable_stopping()->set_max_tokens(static_cast<uint32_t>(planned.output_tokens));
  request.mutable_stopping()->set_ignore_eos(!options.keep_eos);
  request.mutable_output()->set_stream_interval_tokens(
      static_cast<uint32_t>(options.stream_interval_tokens));
  if (options.priority != 0) request.mutable_scheduling()->set_priority(options.priority);
  request.mutable_scheduling()->set_tenant(planned.tenant);
  request.mutable_cache()->set_salt(options.cache_salt);
  return request;
}

void SetDeadline(grpc::ClientContext& context, const CallOptions& options) {
  if (options.deadline_ms == 0) return;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(options.deadline_ms));
}

// Alive until gRPC is done with it and nobody can cancel it any more.
class StreamCall final : public grpc::ClientReadReactor<v1::GenerateEvent> {
 public:
  StreamCall(v1::GenerateRequest request, CallSink sink)
      : request_(std::move(request)), sink_(std::move(sink)) {}

  static CancelCall Run(v1::Generation::Stub& stub, v1::GenerateRequest request,
                        const CallOptions& options, CallSink sink) {
    auto call = std::make_shared<StreamCall>(std::move(request), std::move(sink));
    call->self_ = call;
    SetDeadline(call->context_, options);
    stub.async()->GenerateStream(&call->context_, &call->request_, call.get());
    call->StartRead(&call->event_);
    call->StartCall();
    return [call] { call->context_.TryCancel(); };
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    switch (event_.event_case()) {
      case v1::GenerateEvent::kDelta:
        if (const int tokens = event_.delta().token_ids_size(); tokens > 0) sink_.on_tokens(tokens);
        break;
      case v1::GenerateEvent::kAccepted:
        prompt_tokens_ = static_cast<int>(event_.accepted().prompt_tokens());
        break;
      case v1::GenerateEvent::kChoiceFinished:
        output_tokens_ += static_cast<int>(event_.choice_finished().completion_tokens());
        break;
      case v1::GenerateEvent::kCompleted:
        cached_prompt_tokens_ = static_cast<int>(event_.completed().usage().cached_prompt_tokens());
        break;
      default:
        break;
    }
    StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    CallEnd end = EndOf(status);
    end.prompt_tokens = prompt_tokens_;
    end.cached_prompt_tokens = cached_prompt_tokens_;
    end.output_tokens = output_tokens_;
    const CallSink sink = std::move(sink_);
    // Before the end is told, which may be all that the process waits for. May delete *this.
    std::exchange(self_, nullptr).reset();
    sink.on_end(std::move(end));
  }

 private:
  const v1::GenerateRequest request_;
  CallSink sink_;
  grpc::ClientContext context_;
  v1::GenerateEvent event_;
  int prompt_tokens_ = 0;
  int cached_prompt_tokens_ = 0;
  int output_tokens_ = 0;
  std::shared_ptr<StreamCall> self_;  // until OnDone
};

CancelCall StartUnary(v1::Generation::Stub& stub, v1::GenerateRequest message,
                      const CallOptions& options, CallSink sink) {
  struct Call {
    v1::GenerateRequest request;
    v1::GenerateResponse response;
    grpc::ClientContext context;
  };
  auto call = std::make_shared<Call>();
  call->request = std::move(message);
  SetDeadline(call->context, options);
  stub.async()->Generate(&call->context, &call->request, &call->response,
                         [held = call, sink = std::move(sink)](const grpc::Status& status) mutable {
                           CallEnd end = EndOf(status);
                           const v1::Usage& usage = held->response.usage();
                           end.prompt_tokens = static_cast<int>(usage.prompt_tokens());
                           end.cached_prompt_tokens =
                               static_cast<int>(usage.cached_prompt_tokens());
                           end.output_tokens = static_cast<int>(usage.completion_tokens());
                           held.reset();  // before the end is told, as above
                           sink.on_end(std::move(end));
                         });
  return [call] { call->context.TryCancel(); };
}

}  // namespace

struct GrpcClient::Impl {
  std::string address;
  std::vector<std::unique_ptr<v1::Generation::Stub>> stubs;  // one per connection
  std::atomic<size_t> next = 0;

  v1::Generation::Stub& Next() { return *stubs[next.fetch_add(1) % stubs.size()]; }

  // Waits for the answer to a call that only asks.
  template <class Method, class Request, class Response>
  absl::Status Ask(Method method, const Request& request, Response& response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(kAskSeconds));
    const grpc::Status status = (stubs[0].get()->*method)(&context, request, &response);
    if (status.ok()) return absl::OkStatus();
    const CallEnd end = EndOf(status);
    if (end.reason.empty() && (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                               status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED)) {
      return absl::UnavailableError(absl::StrFormat(
          "no server answers at %s (%s); is it running? Start one with `tandem serve`, or give its "
          "address with --connect HOST:PORT",
          address, status.error_message()));
    }
    if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
      return absl::UnimplementedError(absl::StrFormat(
          "what listens at %s does not speak tandem.v1.Generation (%s); --connect takes the gRPC "
          "address of `tandem serve`",
          address, status.error_message()));
    }
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        absl::StrFormat("the server at %s answered %s: %s", address,
                                        end.reason.empty() ? CodeName(end.code) : end.reason,
                                        status.error_message()));
  }
};

GrpcClient::GrpcClient(std::string address, int connections) : impl_(std::make_unique<Impl>()) {
  grpc_init();  // never undone: gRPC's threads may still be on their way out of a call at the end
  impl_->address = std::move(address);
  for (int i = 0; i < connections; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // or all would share a connection
    arguments.SetMaxReceiveMessageSize(kMaxReceiveBytes);
    impl_->stubs.push_back(v1::Generation::NewStub(
        grpc::CreateCustomChannel(impl_->address, grpc::InsecureChannelCredentials(), arguments)));
  }
}

GrpcClient::~GrpcClient() = default;

absl::StatusOr<ServerFacts> GrpcClient::GetServerInfo() {
  v1::ServerInfo info;
  if (absl::Status s =
          impl_->Ask(&v1::Generation::Stub::GetServerInfo, v1::GetServerInfoRequest(), info);
      !s.ok()) {
    return s;
  }
  return ServerFacts{.version = info.version(),
                     .commit = info.git_commit(),
                     .build = info.build_flags(),
                     .device = info.device_name(),
                     .state = info.state()};
}

absl::StatusOr<ServedModelFacts> GrpcClient::GetModel() {
  v1::ModelInfo info;
  if (absl::Status s = impl_->Ask(&v1::Generation::Stub::GetModel, v1::GetModelRequest(), info);
      !s.ok()) {
    return s;
  }
  return ServedModelFacts{.name = info.name(),
                          .revision = info.revision(),
                          .weight_format = info.weight_format(),
                          .kv_format = info.kv_format(),
                          .vocab_size = static_cast<int>(info.vocab_size()),
                          .context_length = static_cast<int>(info.context_length()),
                          .bos_id = static_cast<int32_t>(info.bos_token_id())};
}

absl::StatusOr<std::vector<int32_t>> GrpcClient::Tokenize(const std::string& text) {
  v1::TokenizeRequest request;
  request.set_text(text);
  request.set_add_bos(false);
  v1::TokenizeResponse response;
  if (absl::Status s = impl_->Ask(&v1::Generation::Stub::Tokenize, request, response); !s.ok()) {
    return s;
  }
  return std::vector<int32_t>(response.token_ids().begin(), response.token_ids().end());
}

CancelCall GrpcClient::Start(const PlannedRequest& request, const CallOptions& options,
                             CallSink sink) {
  v1::Generation::Stub& stub = impl_->Next();
  if (options.unary) {
    return StartUnary(stub, RequestOf(request, options), options, std::move(sink));
  }
  return StreamCall::Run(stub, RequestOf(request, options), options, std::move(sink));
}

}  // namespace tandem::bench
