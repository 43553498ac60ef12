#include "server/grpc/generation_service.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/grpc/close_call.h"
#include "server/grpc/flush_prefix_cache.h"
#include "server/grpc/generate_reactors.h"
#include "server/grpc/model_messages.h"
#include "server/grpc/request_errors.h"
#include "server/grpc/shared_fields.h"
#include "server/grpc/stats_messages.h"
#include "server/grpc/stats_stream.h"
#include "server/grpc/text_methods.h"
#include "server/grpc/wire_message.h"
#include "tandem/v1/admin.grpc.pb.h"
#include "tandem/v1/generation.grpc.pb.h"

namespace tandem::server {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
using grpc::ServerWriteReactor;
using ByteStream = ServerWriteReactor<ByteBuffer>;

// Answers with what `work` makes of the request: StatusOr<Response>(const Request&).
template <class Request, class Work>
ServerUnaryReactor* AnswerNow(ServiceCore& core, const char* method, CallbackServerContext* context,
                              const ByteBuffer* bytes, ByteBuffer* response, Work work) {
  ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::StatusOr<Request> request = ParseMessage<Request>(*bytes);
  absl::Status status = request.status();
  if (status.ok()) {
    const auto answer = work(*request);
    status = answer.status();
    if (status.ok()) *response = SerializeMessage(*answer);
  }
  reactor->Finish(CloseCall(core, method, status));
  return reactor;
}

// The same on the text pool, once there is a model: StatusOr<Response>(const Request&, model).
template <class Request, class Work>
ServerUnaryReactor* AnswerOnTextPool(ServiceCore& core, const char* method,
                                     CallbackServerContext* context, const ByteBuffer* bytes,
                                     ByteBuffer* response, Work work) {
  ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::StatusOr<const LoadedModel*> model = core.Model();
  const auto ticket =
      model.ok() ? core.calls().Begin("") : absl::StatusOr<ActiveCalls::Ticket>(model.status());
  if (!ticket.ok()) {
    reactor->Finish(CloseCall(core, method, ticket.status()));
    return reactor;
  }
  // Context, response and reactor live until Finish; the request's bytes are shared.
  const auto run = [&core, method, model = *model, ticket = *ticket, reactor, response, context,
                    bytes = *bytes, work] {
    absl::Status status = ClientCancelled();
    if (!context->IsCancelled()) {
      const absl::StatusOr<Request> request = ParseMessage<Request>(bytes);
      status = request.status();
      if (status.ok()) {
        const auto answer = work(*request, *model);
        status = answer.status();
        if (status.ok()) *response = SerializeMessage(*answer);
      }
    }
    core.calls().End(ticket);
    reactor->Finish(CloseCall(core, method, status));
  };
  (*model)->backend.generator->RunOnTextPool(run);
  return reactor;
}

ServerUnaryReactor* RefuseUnary(ServiceCore& core, const char* method,
                                CallbackServerContext* context) {
  ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(CloseCall(core, method, Unsupported(absl::StrCat("method ", method))));
  return reactor;
}

ByteStream* RefuseStream(ServiceCore& core, const char* method) {
  class Refusal final : public ByteStream {
   public:
    void OnDone() override { delete this; }
  };
  auto* stream = new Refusal;
  stream->Finish(CloseCall(core, method, Unsupported(absl::StrCat("method ", method))));
  return stream;
}

// clang-format off
template <class Base> using RawGenerate =
    v1::Generation::WithRawCallbackMethod_Generate<
    v1::Generation::WithRawCallbackMethod_GenerateStream<
    v1::Generation::WithRawCallbackMethod_Chat<
    v1::Generation::WithRawCallbackMethod_ChatStream<Base>>>>;
template <class Base> using RawText =
    v1::Generation::WithRawCallbackMethod_Tokenize<
    v1::Generation::WithRawCallbackMethod_Detokenize<
    v1::Generation::WithRawCallbackMethod_CountTokens<
    v1::Generation::WithRawCallbackMethod_GetTokenizerBundle<
    v1::Generation::WithRawCallbackMethod_Embed<Base>>>>>;
template <class Base> using RawInfo =
    v1::Generation::WithRawCallbackMethod_ListModels<
    v1::Generation::WithRawCallbackMethod_GetModel<
    v1::Generation::WithRawCallbackMethod_Abort<
    v1::Generation::WithRawCallbackMethod_GetRequestStatus<
    v1::Generation::WithRawCallbackMethod_GetStats<
    v1::Generation::WithRawCallbackMethod_WatchStats<
    v1::Generation::WithRawCallbackMethod_GetServerInfo<Base>>>>>>>;
template <class Base> using RawAdmin =
    v1::Admin::WithRawCallbackMethod_Drain<
    v1::Admin::WithRawCallbackMethod_Undrain<
    v1::Admin::WithRawCallbackMethod_FlushPrefixCache<
    v1::Admin::WithRawCallbackMethod_SetLimits<
    v1::Admin::WithRawCallbackMethod_SetLogLevel<
    v1::Admin::WithRawCallbackMethod_StartProfile<
    v1::Admin::WithRawCallbackMethod_StopProfile<
    v1::Admin::WithRawCallbackMethod_DumpState<Base>>>>>>>>;
// clang-format on

class GenerationService final : public RawGenerate<RawText<RawInfo<v1::Generation::Service>>> {
 public:
  explicit GenerationService(ServiceCore& core) : core_(core) {}

  ServerUnaryReactor* Generate(CallbackServerContext* context, const ByteBuffer* request,
                               ByteBuffer* response) override {
    return StartGenerate(core_, context, *request, response);
  }
  ByteStream* GenerateStream(CallbackServerContext* context, const ByteBuffer* request) override {
    return StartGenerateStream(core_, context, *request);
  }
  ServerUnaryReactor* Chat(CallbackServerContext* context, const ByteBuffer* request,
                           ByteBuffer* response) override {
    return StartChat(core_, context, *request, response);
  }
  ByteStream* ChatStream(CallbackServerContext* context, const ByteBuffer* request) override {
    return StartChatStream(core_, context, *request);
  }

  ServerUnaryReactor* Tokenize(CallbackServerContext* context, const ByteBuffer* request,
                               ByteBuffer* response) override {
    return AnswerOnTextPool<v1::TokenizeRequest>(core_, "Tokenize", context, request, response,
                                                 TokenizeText);
  }
  ServerUnaryReactor* CountTokens(CallbackServerContext* context, const ByteBuffer* request,
                                  ByteBuffer* response) override {
    return AnswerOnTextPool<v1::TokenizeRequest>(core_, "CountTokens", context, request, response,
                                                 CountTextTokens);
  }
  ServerUnaryReactor* Detokenize(CallbackServerContext* context, const ByteBuffer* request,
                                 ByteBuffer* response) override {
    return AnswerOnTextPool<v1::DetokenizeRequest>(core_, "Detokenize", context, request, response,
                                                   DetokenizeIds);
  }

  ServerUnaryReactor* ListModels(CallbackServerContext* context, const ByteBuffer* request,
                                 ByteBuffer* response) override {
    const auto work =
        [this](const v1::ListModelsRequest&) -> absl::StatusOr<v1::ListModelsResponse> {
      const auto model = core_.Model();
      if (!model.ok()) return model.status();
      v1::ListModelsResponse answer;
      *answer.add_models() = ToModelInfo((*model)->model);
      return answer;
    };
    return AnswerNow<v1::ListModelsRequest>(core_, "ListModels", context, request, response, work);
  }
  ServerUnaryReactor* GetModel(CallbackServerContext* context, const ByteBuffer* request,
                               ByteBuffer* response) override {
    const auto work = [this](const v1::GetModelRequest& asked) -> absl::StatusOr<v1::ModelInfo> {
      const auto model = core_.Model();
      if (!model.ok()) return model.status();
      const absl::Status good = CheckModelName(asked.model(), (*model)->model);
      if (!good.ok()) return good;
      return ToModelInfo((*model)->model);
    };
    return AnswerNow<v1::GetModelRequest>(core_, "GetModel", context, request, response, work);
  }
  ServerUnaryReactor* GetServerInfo(CallbackServerContext* context, const ByteBuffer* request,
                                    ByteBuffer* response) override {
    const auto work = [this](const v1::GetServerInfoRequest&) -> absl::StatusOr<v1::ServerInfo> {
      const auto model = core_.Model();
      return ToServerInfo(core_.config(), model.ok() ? &(*model)->model : nullptr,
                          core_.health().phase(), core_.uptime_s());
    };
    return AnswerNow<v1::GetServerInfoRequest>(core_, "GetServerInfo", context, request, response,
                                               work);
  }

  ServerUnaryReactor* Abort(CallbackServerContext* context, const ByteBuffer* request,
                            ByteBuffer* response) override {
    const auto work = [this](const v1::AbortRequest& asked) { return AbortCalls(asked, core_); };
    return AnswerNow<v1::AbortRequest>(core_, "Abort", context, request, response, work);
  }
  ServerUnaryReactor* GetRequestStatus(CallbackServerContext* context, const ByteBuffer* request,
                                       ByteBuffer* response) override {
    ServerUnaryReactor* reactor = context->DefaultReactor();
    const auto finish = [this, reactor, response](absl::StatusOr<v1::RequestStatus> answer) {
      if (answer.ok()) *response = SerializeMessage(*answer);
      reactor->Finish(CloseCall(core_, "GetRequestStatus", answer.status()));
    };
    const auto asked = ParseMessage<v1::GetRequestStatusRequest>(*request);
    if (asked.ok()) {
      DescribeCall(*asked, core_, finish);
    } else {
      finish(asked.status());
    }
    return reactor;
  }
  ServerUnaryReactor* GetStats(CallbackServerContext* context, const ByteBuffer* request,
                               ByteBuffer* response) override {
    const auto work = [this](const v1::GetStatsRequest&) { return EngineStatsNow(core_); };
    return AnswerNow<v1::GetStatsRequest>(core_, "GetStats", context, request, response, work);
  }
  ByteStream* WatchStats(CallbackServerContext*, const ByteBuffer* request) override {
    return StartWatchStats(core_, *request);
  }

  // Features of later versions.
  ByteStream* GetTokenizerBundle(CallbackServerContext*, const ByteBuffer*) override {
    return RefuseStream(core_, "GetTokenizerBundle");
  }
  ServerUnaryReactor* Embed(CallbackServerContext* c, const ByteBuffer*, ByteBuffer*) override {
    return RefuseUnary(core_, "Embed", c);
  }

 private:
  ServiceCore& core_;
};

class AdminService final : public RawAdmin<v1::Admin::Service> {
 public:
  explicit AdminService(ServiceCore& core) : core_(core) {}

  ServerUnaryReactor* Drain(CallbackServerContext* c, const ByteBuffer*, ByteBuffer*) override {
    return RefuseUnary(core_, "Drain", c);
  }
  ServerUnaryReactor* Undrain(CallbackServerContext* c, const ByteBuffer*, ByteBuffer*) override {
    return RefuseUnary(core_, "Undrain", c);
  }
  ServerUnaryReactor* FlushPrefixCache(CallbackServerContext* context, const ByteBuffer* request,
                                       ByteBuffer* response) override {
    ServerUnaryReactor* reactor = context->DefaultReactor();
    const auto finish = [this, reactor,
                         response](absl::StatusOr<v1::FlushPrefixCacheResponse> answer) {
      if (answer.ok()) *response = SerializeMessage(*answer);
      reactor->Finish(CloseCall(core_, "FlushPrefixCache", answer.status()));
    };
    const auto asked = ParseMessage<v1::FlushPrefixCacheRequest>(*request);
    if (asked.ok()) {
      server::FlushPrefixCache(
          *asked, core_, [context] { return context->IsCancelled(); }, finish);
    } else {
      finish(asked.status());
    }
    return reactor;
  }
  ServerUnaryReactor* SetLimits(CallbackServerContext* c, const ByteBuffer*, ByteBuffer*) override {
    return RefuseUnary(core_, "SetLimits", c);
  }
  ServerUnaryReactor* SetLogLevel(CallbackServerContext* c, const ByteBuffer*,
                                  ByteBuffer*) override {
    return RefuseUnary(core_, "SetLogLevel", c);
  }
  ServerUnaryReactor* StartProfile(CallbackServerContext* c, const ByteBuffer*,
                                   ByteBuffer*) override {
    return RefuseUnary(core_, "StartProfile", c);
  }
  ServerUnaryReactor* StopProfile(CallbackServerContext* c, const ByteBuffer*,
                                  ByteBuffer*) override {
    return RefuseUnary(core_, "StopProfile", c);
  }
  ServerUnaryReactor* DumpState(CallbackServerContext* c, const ByteBuffer*, ByteBuffer*) override {
    return RefuseUnary(core_, "DumpState", c);
  }

 private:
  ServiceCore& core_;
};

}  // namespace

std::vector<std::unique_ptr<grpc::Service>> MakeServices(ServiceCore& core) {
  std::vector<std::unique_ptr<grpc::Service>> services;
  services.push_back(std::make_unique<GenerationService>(core));
  services.push_back(std::make_unique<AdminService>(core));
  return services;
}

}  // namespace tandem::server
