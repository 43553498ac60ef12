// A client and a server over loopback: real gRPC, a real scheduler, a device that follows a script.
//
// Included by one test file: gRPC's headers are slow to compile.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "server/grpc/grpc_server.h"
#include "spdlog/spdlog.h"
#include "tandem/rpc/error_details.pb.h"
#include "tandem/v1/generation.grpc.pb.h"
#include "tests/server/generation/generation_rig.h"
#include "tests/server/text/test_tokenizers.h"

namespace tandem::server {

using Event = v1::GenerateEvent;

// What a client sees of an error's details.
struct Details {
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad;
  std::optional<google::rpc::RetryInfo> retry;
  std::vector<std::string> types;  // of all, such as "QuotaFailure"
};

inline Details DetailsOf(const grpc::Status& status) {
  google::rpc::Status all;
  EXPECT_TRUE(all.ParseFromString(status.error_details()));
  EXPECT_EQ(all.code(), status.error_code());
  Details details;
  for (const auto& any : all.details()) {
    details.types.push_back(any.type_url().substr(any.type_url().rfind('.') + 1));
    any.UnpackTo(&details.info);
    any.UnpackTo(&details.bad);
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&retry)) details.retry = retry;
  }
  EXPECT_EQ(details.info.domain(), "tandem");
  return details;
}

inline std::string Reason(const grpc::Status& status) { return DetailsOf(status).info.reason(); }

// One entry of ErrorInfo.metadata; empty when there is none.
inline std::string Metadata(const grpc::Status& status, const char* key) {
  const google::rpc::ErrorInfo info = DetailsOf(status).info;
  const auto found = info.metadata().find(key);
  return found == info.metadata().end() ? "" : found->second;
}

// Waits until `done`; fails the test after a minute.
template <class Done>
void Eventually(Done done) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!done()) {
    if (std::chrono::steady_clock::now() > end) {
      ADD_FAILURE() << "timed out";
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

inline std::optional<std::string> Find(
    const std::multimap<grpc::string_ref, grpc::string_ref>& metadata, const char* key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return std::nullopt;
  return std::string(found->second.data(), found->second.size());
}

class GrpcServerTest : public ::testing::Test {
 protected:
  explicit GrpcServerTest(Tokenizer tokenizer = SyntheticTokenizer())
      : tokenizer_(std::move(tokenizer)) {}

  void StartServer(GrpcConfig config = {}, RigConfig rig = {}, bool loaded = true) {
    spdlog::set_level(spdlog::level::warn);
    rig_.emplace(tokenizer_, rig);
    // Holds the device before token `hold_at_` of every request until released.
    rig_->device().SetHook([this](uint64_t, int, int i) {
      if (i >= hold_at_) release_.Wait();
      if (step_us_ > 0) std::this_thread::sleep_for(std::chrono::microseconds(step_us_));
    });
    config.listen = {"127.0.0.1:0"};
    config.version = "9.9";
    config.replica = "pod-1";
    auto server = GrpcServer::Start(config, health_, metrics_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->ports()[0]),
                                   grpc::InsecureChannelCredentials());
    stub_ = v1::Generation::NewStub(channel_);
    if (loaded) Load(rig.max_context, rig.scheduler.max_draft_tokens);
  }
  void Load(int context, int max_draft_tokens = 0) {
    ServedModel model;
    if (max_draft_tokens > 0) {
      model.drafter = ServedDrafter{.name = "demo/assistant",
                                    .layers = 4,
                                    .max_draft_tokens = max_draft_tokens,
                                    .weight_format = "bf16",
                                    .default_mode = scheduler::Speculation::Mode::kFixed};
    }
    model.name = "demo";
    model.revision = "r1";
    model.context_length = context;
    model.max_prompt_tokens = context - 1;
    model.vocab_size = tokenizer_.vocab_size();
    model.default_sampling.temperature = 0.0f;
    model.eos_ids = {1};
    model.layers = 3;
    model.full_attention_layers = 1;
    model.kv_block_tokens = 16;
    model.kv_format = "bf16";
    model.has_chat = tokenizer_.vocabulary().Find("<turn|>").has_value();
    server_->Serve(model, {.generator = &rig_->generator(),
                           .tokenizer = &tokenizer_,
                           .scheduler = &rig_->scheduler()});
    health_.SetPhase(Phase::kReady);
  }
  void TearDown() override {
    release_.Set();
    if (server_ != nullptr) server_->Shutdown(60'000);
  }

  // A request whose choices the device answers with their part of `script`.
  v1::GenerateRequest ScriptedRequest(ScriptedDevice::Script script) {
    rig_->device().SetScript(++last_seed_, std::move(script));
    v1::GenerateRequest request;
    request.set_text("hello");
    request.mutable_sampling()->set_seed(last_seed_);
    request.mutable_stopping()->set_max_tokens(100);
    return request;
  }
  v1::GenerateRequest Request(std::vector<int32_t> script) {
    return ScriptedRequest({std::move(script)});
  }
  // Runs until something stops it.
  v1::GenerateRequest EndlessRequest() {
    v1::GenerateRequest request = Request({10});
    request.mutable_stopping()->clear_max_tokens();
    return request;
  }

  // A client of its own whose connection takes 64 KiB ahead of what is read, and no more.
  std::unique_ptr<v1::Generation::Stub> StallingStub() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 64 << 10);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return v1::Generation::NewStub(
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server_->ports()[0]),
                                  grpc::InsecureChannelCredentials(), arguments));
  }

  // All events of a stream.
  std::vector<Event> Stream(const v1::GenerateRequest& request, grpc::Status* status,
                            grpc::ClientContext* context) {
    auto reader = stub_->GenerateStream(context, request);
    std::vector<Event> events;
    for (Event event; reader->Read(&event);) events.push_back(event);
    *status = reader->Finish();
    return events;
  }
  grpc::Status Generate(const v1::GenerateRequest& request,
                        v1::GenerateResponse* response = nullptr) {
    grpc::ClientContext context;
    v1::GenerateResponse ignored;
    return stub_->Generate(&context, request, response != nullptr ? response : &ignored);
  }

  // Raw bytes to any method of any service.
  grpc::Status CallRaw(const std::string& method, const std::string& request,
                       std::string* response = nullptr) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    const grpc::Slice slice(request);
    const grpc::ByteBuffer bytes(&slice, 1);
    grpc::ByteBuffer answer;
    grpc::Status status;
    Signal done;
    stub.UnaryCall(&context, method, {}, &bytes, &answer, [&](grpc::Status s) {
      status = std::move(s);
      done.Set();
    });
    done.Wait();
    std::vector<grpc::Slice> slices;
    if (response != nullptr && status.ok() && answer.Dump(&slices).ok()) {
      for (const grpc::Slice& s : slices) {
        response->append(reinterpret_cast<const char*>(s.begin()), s.size());
      }
    }
    return status;
  }
  // SERVING, NOT_SERVING or what else the health service says of `name`, by number; -1: unknown.
  int Health(const std::string& name) {
    const std::string request =
        name.empty() ? "" : absl::StrCat("\x0a", std::string(1, char(name.size())), name);
    std::string response;
    const grpc::Status status = CallRaw("/grpc.health.v1.Health/Check", request, &response);
    if (status.error_code() == grpc::StatusCode::NOT_FOUND) return -1;
    return response.size() == 2 ? response[1] : 0;
  }

  bool Idle() {
    const scheduler::SchedulerStats stats = rig_->scheduler().stats();
    return stats.running == 0 && stats.waiting == 0 && stats.blocks_used[engine::kFull] == 0;
  }
  // Where a call stands; STATE_UNSPECIFIED when nobody knows it.
  v1::RequestStatus StatusOf(const std::string& request_id, grpc::Status* status = nullptr) {
    grpc::ClientContext context;
    v1::GetRequestStatusRequest request;
    request.set_request_id(request_id);
    v1::RequestStatus answer;
    const grpc::Status got = stub_->GetRequestStatus(&context, request, &answer);
    if (status != nullptr) *status = got;
    return answer;
  }
  void WaitState(const std::string& request_id, v1::RequestStatus::State state) {
    Eventually([&] { return StatusOf(request_id).state() == state; });
  }

  bool Exports(const char* series) {
    return metrics_.Render(health_).find(series) != std::string::npos;
  }

  const Tokenizer tokenizer_;
  HealthState health_;
  Metrics metrics_{"demo"};
  std::atomic<int> hold_at_ = 1 << 30;
  std::atomic<int> step_us_ = 0;
  Signal release_;
  uint64_t last_seed_ = 0;
  std::optional<GenerationRig> rig_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Generation::Stub> stub_;
};

}  // namespace tandem::server
