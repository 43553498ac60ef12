// Calls that nobody should make, by the thousand, against the real program.
//
// Every call ends: with a status of the server's, or because this client hung up. None ends with
// UNKNOWN or INTERNAL, refusals by our services are typed, the server stays up, and afterwards it
// answers a good request as before, with nothing running, waiting or held.
//
// TANDEM_HOSTILE_CALLS  how many; default 3000
// TANDEM_HOSTILE_SEED   which; default 1
//
// With AddressSanitizer and UndefinedBehaviorSanitizer on our code, a hundred thousand of them:
//   cmake --preset asan-server && cmake --build --preset asan-server
//   TANDEM_HOSTILE_CALLS=100000 ctest --preset asan-server

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/stubs/logging.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "tandem/rpc/error_details.pb.h"
#include "tandem/v1/admin.pb.h"
#include "tandem/v1/generation.grpc.pb.h"
#include "tests/server/grpc_hostile/message_mutator.h"
#include "tests/server/grpc_hostile/raw_frames.h"
#include "tests/server/grpc_hostile/server_process.h"

namespace tandem::server {
namespace {

using Clock = std::chrono::steady_clock;
using google::protobuf::Message;
using std::chrono::milliseconds;

constexpr int kInFlight = 48;
constexpr std::chrono::seconds kPatience(120);  // a call without an end is a failure

int FromEnvironment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

struct Method {
  std::string path;
  const google::protobuf::Descriptor* input = nullptr;  // null: not ours, noise only
  bool generates = false;                               // may take as long as it likes
};

// What the calls came to. Threads: any.
class Tally {
 public:
  void Count(const Method& method, const grpc::Status& status, bool hung_up, double seconds) {
    const std::lock_guard lock(mutex_);
    ++codes_[status.error_code()];
    if (status.ok() || hung_up) return;
    const std::string problem = Problem(method, status);
    if (!problem.empty() && problems_.size() < 20) {
      problems_.push_back(method.path + ": " + std::to_string(status.error_code()) + " " +
                          status.error_message() + " after " + std::to_string(seconds) +
                          " s: " + problem);
    }
  }
  std::map<int, int> codes() {
    const std::lock_guard lock(mutex_);
    return codes_;
  }
  std::vector<std::string> problems() {
    const std::lock_guard lock(mutex_);
    return problems_;
  }

 private:
  // What is wrong with an error that the server sent; empty: nothing.
  static std::string Problem(const Method& method, const grpc::Status& status) {
    if (method.input == nullptr) return "";  // gRPC's own services and no services
    switch (status.error_code()) {
      case grpc::StatusCode::UNKNOWN:
      case grpc::StatusCode::INTERNAL:
      case grpc::StatusCode::UNAVAILABLE:
      case grpc::StatusCode::DATA_LOSS:
        return "no client can cause this";
      case grpc::StatusCode::CANCELLED:
      case grpc::StatusCode::DEADLINE_EXCEEDED:
        if (status.error_details().empty()) return "nobody answered";
        break;
      case grpc::StatusCode::RESOURCE_EXHAUSTED:
        // gRPC itself refuses what is above the limit, before we see it.
        if (status.error_message().find("larger than max") != std::string::npos) return "";
        break;
      default:
        break;
    }
    google::rpc::Status details;
    google::rpc::ErrorInfo info;
    if (!details.ParseFromString(status.error_details())) return "no google.rpc.Status";
    for (const auto& any : details.details()) any.UnpackTo(&info);
    if (info.domain() != "tandem" || info.reason().empty()) return "no reason";
    const std::string& message = status.error_message();
    const bool printable =
        std::all_of(message.begin(), message.end(), [](char c) { return c >= ' ' && c <= '~'; });
    return printable && message.size() <= 512 ? "" : "a message that is long or not ASCII";
  }

  std::mutex mutex_;
  std::map<int, int> codes_;
  std::vector<std::string> problems_;
};

// One call of any kind: writes the request, reads all there is. Owned by gRPC until OnDone.
class Call : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  Call(grpc::GenericStub& stub, const Method& method, const std::string& request, Tally& tally,
       std::atomic<int>& in_flight)
      : method_(method), tally_(tally), in_flight_(in_flight), begin_(Clock::now()) {
    const grpc::Slice slice(request);
    request_ = grpc::ByteBuffer(&slice, 1);
    context_.set_deadline(std::chrono::system_clock::now() + kPatience);
    stub.PrepareBidiStreamingCall(&context_, method.path, {}, this);
  }
  void Start() {
    StartWriteLast(&request_, {});
    StartRead(&answer_);
    StartCall();
  }
  void HangUp() {
    hung_up_ = true;
    context_.TryCancel();
  }
  bool done() const { return done_; }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    answer_.Clear();
    StartRead(&answer_);
  }
  void OnDone(const grpc::Status& status) override {
    tally_.Count(method_, status, hung_up_,
                 std::chrono::duration<double>(Clock::now() - begin_).count());
    done_ = true;
    --in_flight_;
  }

 private:
  const Method method_;
  Tally& tally_;
  std::atomic<int>& in_flight_;
  const Clock::time_point begin_;
  grpc::ClientContext context_;
  grpc::ByteBuffer request_, answer_;
  std::atomic<bool> hung_up_ = false;
  std::atomic<bool> done_ = false;
};

std::vector<Method> AllMethods() {
  std::vector<Method> methods;
  const auto add = [&](const char* name, const google::protobuf::Descriptor* input,
                       bool generates = false) {
    methods.push_back({absl::StrCat("/tandem.v1.Generation/", name), input, generates});
  };
  add("Generate", v1::GenerateRequest::descriptor(), true);
  add("GenerateStream", v1::GenerateRequest::descriptor(), true);
  add("Chat", v1::ChatRequest::descriptor(), true);
  add("ChatStream", v1::ChatRequest::descriptor(), true);
  add("Tokenize", v1::TokenizeRequest::descriptor());
  add("Detokenize", v1::DetokenizeRequest::descriptor());
  add("CountTokens", v1::TokenizeRequest::descriptor());
  add("ListModels", v1::ListModelsRequest::descriptor());
  add("GetModel", v1::GetModelRequest::descriptor());
  add("Abort", v1::AbortRequest::descriptor());
  add("GetRequestStatus", v1::GetRequestStatusRequest::descriptor());
  add("GetStats", v1::GetStatsRequest::descriptor());
  add("WatchStats", v1::WatchStatsRequest::descriptor(), true);
  add("GetServerInfo", v1::GetServerInfoRequest::descriptor());
  add("GetTokenizerBundle", v1::GetTokenizerBundleRequest::descriptor());
  add("Embed", v1::EmbedRequest::descriptor());
  methods.push_back(
      {"/tandem.v1.Admin/FlushPrefixCache", v1::FlushPrefixCacheRequest::descriptor(), true});
  for (const char* other :
       {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/tandem.v1.Admin/Drain",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/no.Service/Method",
        "/tandem.v1.Generation/NoMethod", "/"}) {
    methods.push_back({.path = other, .generates = true});  // Watch has no end
  }
  return methods;
}

// A request that the method would take.
std::unique_ptr<Message> ValidRequest(const Method& method, MessageMutator& mutator) {
  auto message = std::unique_ptr<Message>(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(method.input)->New());
  if (auto* generate = dynamic_cast<v1::GenerateRequest*>(message.get())) {
    generate->set_text("The quick brown fox");
    generate->mutable_stopping()->set_max_tokens(1 + mutator.Below(8));
  } else if (auto* chat = dynamic_cast<v1::ChatRequest*>(message.get())) {
    auto* user = chat->add_messages();
    user->set_role(v1::USER);
    user->set_content("Tell me a story about a fox.");
    if (mutator.Below(3) == 0) {
      auto* tool = chat->add_tools();
      tool->set_name("look_up");
      tool->set_parameters_json(R"({"type":"object","properties":{"x":{"type":"string"}}})");
    }
    chat->mutable_stopping()->set_max_tokens(1 + mutator.Below(8));
  } else if (auto* tokenize = dynamic_cast<v1::TokenizeRequest*>(message.get())) {
    if (mutator.Below(2) == 0) {
      tokenize->set_text("The quick brown fox");
    } else {
      auto* user = tokenize->mutable_chat()->add_messages();
      user->set_role(v1::USER);
      user->set_content("hello");
    }
  }
  return message;
}

class HostileCallsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // Half of our own messages are no UTF-8, which protobuf would remark on every time.
    google::protobuf::SetLogHandler(nullptr);
    server_.emplace(TANDEM_PROGRAM,
                    std::vector<std::string>{
                        "serve", "--model", std::string(TANDEM_SOURCE_DIR) + "/models/demo",
                        "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
                        "--log-format", "text", "--drain-grace-s", "0", "--admin", "on"});
    ASSERT_TRUE(server_->ready()) << server_->Log();
    for (auto& channel : channels_) {
      grpc::ChannelArguments arguments;
      arguments.SetInt("grpc.use_local_subchannel_pool", 1);
      arguments.SetInt("grpc.enable_http_proxy", 0);
      arguments.SetMaxReceiveMessageSize(-1);
      channel = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->grpc_port()),
                                          grpc::InsecureChannelCredentials(), arguments);
    }
    for (const auto& channel : channels_) good_text_ = GoodText(channel);  // all are connected
    ASSERT_FALSE(good_text_.empty());
  }

  // The answer to a seeded request, always the same.
  std::string GoodText(const std::shared_ptr<grpc::Channel>& channel) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    v1::GenerateRequest request;
    request.set_text("Tell me a story about a fox.");
    request.mutable_sampling()->set_seed(5);
    request.mutable_sampling()->set_temperature(1.5f);
    request.mutable_sampling()->set_top_k(0);
    request.mutable_sampling()->set_top_p(1.0f);
    request.mutable_stopping()->set_max_tokens(32);
    request.mutable_stopping()->set_ignore_eos(true);
    v1::GenerateResponse response;
    const grpc::Status status =
        v1::Generation::NewStub(channel)->Generate(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return status.ok() ? response.choices(0).text() : "";
  }

  // Makes `count` calls, some of which it gives up on.
  void MakeCalls(int count, uint64_t seed) {
    const std::vector<Method> methods = AllMethods();
    MessageMutator mutator(seed);
    std::vector<grpc::GenericStub> stubs;
    for (const auto& channel : channels_) stubs.emplace_back(channel);
    struct Running {
      std::unique_ptr<Call> call;
      Clock::time_point patience;
    };
    std::vector<Running> running;
    std::atomic<int> in_flight = 0;
    const auto tidy = [&] {
      const Clock::time_point now = Clock::now();
      std::erase_if(running, [&](Running& one) {
        if (one.call->done()) return true;
        if (now > one.patience) {
          one.call->HangUp();
          one.patience = Clock::time_point::max();
        }
        return false;
      });
    };
    for (int i = 0; i < count && server_->Alive(); ++i) {
      const Method& method = methods[mutator.Below(static_cast<int>(methods.size()))];
      std::string request;
      if (method.input != nullptr) {
        const std::unique_ptr<Message> message = ValidRequest(method, mutator);
        const bool noise = mutator.Below(3) == 0;
        if (!noise) mutator.Mutate(*message, mutator.Below(4));
        request = message->SerializePartialAsString();
        if (noise) request = mutator.Noise(request);
      } else {
        request = mutator.Noise("\x0a\x09liveness");
      }
      while (in_flight >= kInFlight) {
        tidy();
        std::this_thread::sleep_for(milliseconds(1));
      }
      ++in_flight;
      auto call =
          std::make_unique<Call>(stubs[i % stubs.size()], method, request, tally_, in_flight);
      call->Start();
      Clock::time_point patience = Clock::time_point::max();
      if (mutator.Below(10) == 0)
        patience = Clock::now() + milliseconds(mutator.Below(20));
      else if (method.generates)
        patience = Clock::now() + milliseconds(500);
      running.push_back({std::move(call), patience});
      if (i % 16 == 0) tidy();
    }
    while (!running.empty()) {
      tidy();
      std::this_thread::sleep_for(milliseconds(1));
    }
  }

  bool Idle() {
    return server_->Metric("vllm:num_requests_running") == 0 &&
           server_->Metric("vllm:num_requests_waiting") == 0 &&
           server_->Metric("tandem_kv_blocks", "state=\"used\"") == 0;
  }
  template <class Done>
  bool Eventually(Done done) {
    const Clock::time_point end = Clock::now() + kPatience;
    while (!done()) {
      if (Clock::now() > end) return false;
      std::this_thread::sleep_for(milliseconds(20));
    }
    return true;
  }

  std::optional<ServerProcess> server_;
  std::array<std::shared_ptr<grpc::Channel>, 4> channels_;
  std::string good_text_;
  Tally tally_;
};

TEST_F(HostileCallsTest, EveryCallEndsAndTheServerIsAsItWas) {
  const int total = FromEnvironment("TANDEM_HOSTILE_CALLS", 3000);
  const int seed = FromEnvironment("TANDEM_HOSTILE_SEED", 1);
  const int connections = total / 10;
  const int files = server_->OpenFiles();
  // When calls and connections come side by side.
  int unheard = 0;
  std::thread raw([&] {
    std::mt19937_64 random(seed);
    v1::GenerateRequest request;
    request.set_text("hello");
    request.mutable_stopping()->set_max_tokens(2);
    const std::string message = request.SerializeAsString();
    for (int i = 0; i < connections; ++i) {
      if (!HostileConnection(server_->grpc_port(), random, message)) ++unheard;
    }
  });
  MakeCalls(total - connections, seed);
  raw.join();
  // Then each ended as it may,
  ASSERT_TRUE(server_->Alive()) << server_->Log();
  std::string summary;
  int counted = 0;
  for (const auto& [code, count] : tally_.codes()) {
    summary += " " + std::to_string(code) + ":" + std::to_string(count);
    counted += count;
  }
  std::printf("hostile: %d calls by status code%s; %d raw connections\n", counted, summary.c_str(),
              connections);
  EXPECT_EQ(counted, total - connections);
  EXPECT_EQ(unheard, 0) << "connections that the server neither answered nor closed";
  EXPECT_TRUE(tally_.problems().empty()) << ::testing::PrintToString(tally_.problems());
  EXPECT_GT(tally_.codes()[grpc::StatusCode::OK], 0);
  EXPECT_GT(tally_.codes()[grpc::StatusCode::INVALID_ARGUMENT], 0);
  // nothing is held, and a good request has the answer it had.
  EXPECT_TRUE(Eventually([&] { return Idle(); })) << server_->Log();
  EXPECT_TRUE(Eventually([&] { return server_->OpenFiles() <= files; })) << server_->OpenFiles();
  EXPECT_EQ(GoodText(channels_[0]), good_text_);
  EXPECT_EQ(server_->Stop(), 0) << server_->Log();
}

}  // namespace
}  // namespace tandem::server
