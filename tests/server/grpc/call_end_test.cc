// How calls end: every row of grpc-surface 1.8 that this server has, and calls that are given up in
// each state, whose memory is free afterwards.

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/grpc/server_fixture.h"

namespace tandem::server {
namespace {

using std::chrono::milliseconds;
using ::testing::Contains;
using ::testing::Key;
using State = v1::RequestStatus;

class CallEndTest : public GrpcServerTest {
 protected:
  // What both kinds of call end with; they must agree.
  grpc::Status Both(const v1::GenerateRequest& request) {
    const grpc::Status unary = Generate(request);
    grpc::ClientContext context;
    grpc::Status stream;
    Stream(request, &stream, &context);
    EXPECT_EQ(unary.error_code(), stream.error_code());
    EXPECT_EQ(Reason(unary), Reason(stream));
    return unary;
  }
  void ExpectEnd(const grpc::Status& status, grpc::StatusCode code, const std::string& reason,
                 const std::vector<std::string>& details = {}) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(Reason(status), reason);
    std::vector<std::string> types = {"ErrorInfo"};
    types.insert(types.end(), details.begin(), details.end());
    EXPECT_THAT(DetailsOf(status).types, ::testing::UnorderedElementsAreArray(types));
    EXPECT_LE(status.error_message().size(), 512u);
  }
  // An endless stream that holds the only seat of the server, after its first token.
  void TakeTheSeat() {
    hold_at_ = 1;
    seat_ = stub_->GenerateStream(&seat_context_, EndlessRequest());
    Event event;
    ASSERT_TRUE(seat_->Read(&event));
    Eventually([&] { return rig_->scheduler().stats().running == 1; });
  }
  void LeaveTheSeat() {
    seat_context_.TryCancel();
    release_.Set();
    seat_->Finish();
  }
  void HoldTokenizing() {
    rig_->generator().RunOnTextPool([this] { release_.Wait(); });
  }

  grpc::ClientContext seat_context_;
  std::unique_ptr<grpc::ClientReader<Event>> seat_;
};

constexpr auto kInvalid = grpc::StatusCode::INVALID_ARGUMENT;
constexpr auto kExhausted = grpc::StatusCode::RESOURCE_EXHAUSTED;
constexpr auto kDeadline = grpc::StatusCode::DEADLINE_EXCEEDED;

// ---- the table ----

TEST_F(CallEndTest, MistakesInTheRequest) {
  StartServer({}, {.max_context = 256, .num_blocks = 4});
  const auto changed = [&](const std::function<void(v1::GenerateRequest&)>& change) {
    v1::GenerateRequest request = Request({10, 1});
    change(request);
    return Both(request);
  };
  ExpectEnd(changed([](auto& r) { r.mutable_sampling()->set_temperature(11); }), kInvalid,
            "BAD_PARAMETER", {"BadRequest"});
  ExpectEnd(changed([](auto& r) { r.set_text(""); }), kInvalid, "EMPTY_PROMPT", {"BadRequest"});
  ExpectEnd(changed([](auto& r) { r.mutable_token_ids()->add_ids(1 << 30); }), kInvalid,
            "BAD_TOKEN_ID", {"BadRequest"});
  const auto prompt_of = [](int tokens) {
    return [tokens](v1::GenerateRequest& r) {
      for (int i = 0; i < tokens; ++i) r.mutable_token_ids()->add_ids(5);
    };
  };
  const grpc::Status too_long = changed(prompt_of(256));
  ExpectEnd(too_long, kInvalid, "PROMPT_TOO_LONG", {"BadRequest"});
  EXPECT_EQ(Metadata(too_long, "prompt_tokens"), "256");
  EXPECT_EQ(Metadata(too_long, "max_prompt_tokens"), "255");
  const grpc::Status too_big = changed(prompt_of(100));
  ExpectEnd(too_big, kInvalid, "EXCEEDS_KV_CAPACITY");
  EXPECT_EQ(Metadata(too_big, "needed_blocks"), "7");
  EXPECT_EQ(Metadata(too_big, "total_blocks"), "4");
  ExpectEnd(changed([](auto& r) { r.set_model("other"); }), grpc::StatusCode::NOT_FOUND,
            "MODEL_NOT_FOUND", {"ResourceInfo"});
  const grpc::Status guided = changed([](auto& r) { r.mutable_guided()->set_regex("a*"); });
  ExpectEnd(guided, grpc::StatusCode::UNIMPLEMENTED, "FEATURE_UNSUPPORTED");
  EXPECT_EQ(Metadata(guided, "feature"), "guided");
  ExpectEnd(changed([](auto& r) { r.mutable_speculative()->set_require(true); }),
            grpc::StatusCode::FAILED_PRECONDITION, "DRAFTER_UNAVAILABLE", {"PreconditionFailure"});
  Eventually([&] { return Idle() && rig_->scheduler().stats().queued_requests == 0; });
}

TEST_F(CallEndTest, OptionsThatContradictEachOtherOrAreTooMany) {
  StartServer();
  const std::pair<const char*, std::function<void(v1::GenerateRequest&)>> cases[] = {
      {"stopping.stop",
       [](auto& r) {
         r.mutable_output()->set_text(false);
         r.mutable_stopping()->add_stop("x");
       }},
      {"stopping.stop",
       [](auto& r) {
         for (int i = 0; i < 17; ++i) r.mutable_stopping()->add_stop(absl::StrCat(i));
       }},
      {"stopping.stop[0]", [](auto& r) { r.mutable_stopping()->add_stop(std::string(257, 'x')); }},
      {"stopping.stop_token_ids",
       [](auto& r) {
         for (int i = 0; i < 65; ++i) r.mutable_stopping()->add_stop_token_ids(i);
       }},
      {"stopping.min_tokens", [](auto& r) { r.mutable_stopping()->set_min_tokens(101); }},
      {"stopping.max_tokens", [](auto& r) { r.mutable_stopping()->set_max_tokens(0); }},
      {"sampling.allowed_token_ids",
       [](auto& r) {
         r.mutable_sampling()->add_allowed_token_ids(7);
         r.mutable_sampling()->add_banned_token_ids(7);
       }},
      {"truncate_prompt_tokens", [](auto& r) { r.set_truncate_prompt_tokens(0); }},
      {"request_id", [](auto& r) { r.set_request_id("two words"); }},
      {"request_id", [](auto& r) { r.set_request_id(std::string(129, 'x')); }},
  };
  for (const auto& [field, change] : cases) {
    v1::GenerateRequest request = Request({10, 1});
    change(request);
    const grpc::Status status = Both(request);
    ExpectEnd(status, kInvalid, "BAD_PARAMETER", {"BadRequest"});
    EXPECT_EQ(DetailsOf(status).bad.field_violations(0).field(), field);
  }
}

TEST_F(CallEndTest, AnIdInUse) {
  StartServer({}, {.max_slots = 1});
  TakeTheSeat();
  v1::GenerateRequest request = Request({10, 1});
  request.set_request_id("waits");
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, request);
  Eventually([&] { return rig_->scheduler().stats().queued_requests == 1; });
  ExpectEnd(Both(request), grpc::StatusCode::ALREADY_EXISTS, "DUPLICATE_REQUEST_ID",
            {"RequestInfo"});
  // It is free once the call has ended, however it did.
  context.TryCancel();
  reader->Finish();
  LeaveTheSeat();
  Eventually([&] { return Generate(request).ok(); });
}

struct QueueLimit {
  const char* name;  // as ErrorInfo has it
  RigConfig rig;
};

class QueueLimitTest : public CallEndTest, public ::testing::WithParamInterface<QueueLimit> {};

TEST_P(QueueLimitTest, AFullQueueSaysWhenToComeBack) {
  // Given the only seat taken, and a request of 90 tokens that waits for it.
  StartServer({}, GetParam().rig);
  TakeTheSeat();
  v1::GenerateRequest request = EndlessRequest();
  for (int i = 0; i < 90; ++i) request.mutable_token_ids()->add_ids(200);
  grpc::ClientContext context;
  auto waiting = stub_->GenerateStream(&context, request);
  Eventually([&] { return rig_->scheduler().stats().queued_requests == 1; });
  // Then another one finds no place.
  const grpc::Status status = Both(request);
  ExpectEnd(status, kExhausted, "QUEUE_FULL", {"QuotaFailure", "RetryInfo"});
  EXPECT_THAT(DetailsOf(status).info.metadata(), Contains(Key(GetParam().name)));
  const auto delay = DetailsOf(status).retry->retry_delay();
  EXPECT_GT(delay.seconds() + delay.nanos(), 0);
  // Until there is room.
  context.TryCancel();
  waiting->Finish();
  LeaveTheSeat();
  Eventually([&] { return Idle() && rig_->scheduler().stats().queued_requests == 0; });
  EXPECT_TRUE(Generate(Request({10, 1})).ok());
}

INSTANTIATE_TEST_SUITE_P(
    All, QueueLimitTest,
    ::testing::Values(
        QueueLimit{"max_queued_requests", {.max_slots = 1, .max_queued_requests = 1}},
        QueueLimit{"max_queued_tokens", {.max_slots = 1, .scheduler = {.max_queued_tokens = 100}}},
        QueueLimit{"max_queued_bytes", {.max_slots = 1, .scheduler = {.max_queued_bytes = 300}}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(CallEndTest, ARefusedPromptIsNotEvenTokenized) {
  // Given a text pool that reads no prompt, and a queue with one place.
  StartServer({}, {.max_queued_requests = 1});
  HoldTokenizing();
  grpc::ClientContext context;
  auto waiting = stub_->GenerateStream(&context, Request({10, 1}));
  Eventually([&] { return rig_->scheduler().stats().queued_requests == 1; });
  // Then the next one is refused at once.
  ExpectEnd(Both(Request({10, 1})), kExhausted, "QUEUE_FULL", {"QuotaFailure", "RetryInfo"});
  release_.Set();
  Event event;
  while (waiting->Read(&event)) {
  }
  EXPECT_TRUE(waiting->Finish().ok());
}

TEST_F(CallEndTest, ATenantsShare) {
  StartServer({}, {.max_slots = 1, .scheduler = {.max_queued_per_tenant = 1}});
  TakeTheSeat();
  v1::GenerateRequest request = EndlessRequest();
  request.mutable_scheduling()->set_tenant("acme");
  grpc::ClientContext context, other_context;
  auto waiting = stub_->GenerateStream(&context, request);
  Eventually([&] { return rig_->scheduler().stats().queued_requests == 1; });
  ExpectEnd(Both(request), kExhausted, "TENANT_LIMIT", {"QuotaFailure", "RetryInfo"});
  // Others are not concerned.
  request.mutable_scheduling()->set_tenant("other");
  auto other = stub_->GenerateStream(&other_context, request);
  Eventually([&] { return rig_->scheduler().stats().queued_requests == 2; });
  context.TryCancel();
  other_context.TryCancel();
  LeaveTheSeat();
  waiting->Finish();
  other->Finish();
}

TEST_F(CallEndTest, AWishNotToWait) {
  StartServer({}, {.max_slots = 1, .max_context = 60'000});
  step_us_ = 100;
  v1::GenerateRequest request = Request({10, 1});
  request.mutable_scheduling()->set_reject_if_queued(true);
  EXPECT_TRUE(Generate(request).ok());
  // Refused at the next step, since the only seat is taken.
  grpc::ClientContext context;
  auto seat = stub_->GenerateStream(&context, EndlessRequest());
  Event event;
  ASSERT_TRUE(seat->Read(&event));
  ExpectEnd(Both(request), kExhausted, "QUEUE_FULL", {"QuotaFailure", "RetryInfo"});
  context.TryCancel();
  seat->Finish();
}

TEST_F(CallEndTest, MemoryThatRunsOutTooOften) {
  // Two sequences that fit one at a time, and no patience with preemptions.
  StartServer({}, {.max_slots = 2, .num_blocks = 10, .scheduler = {.max_preemptions = 0}});
  v1::GenerateRequest request = ScriptedRequest({{10}, {10}});
  request.mutable_stopping()->set_max_tokens(120);
  request.mutable_sampling()->set_n(2);
  const grpc::Status status = Generate(request);
  ExpectEnd(status, kExhausted, "KV_EXHAUSTED", {"RetryInfo"});
  Eventually([&] { return Idle(); });
}

TEST_F(CallEndTest, ATimeoutInTheQueue) {
  StartServer({}, {.max_slots = 1});
  step_us_ = 1000;
  grpc::ClientContext context;
  auto seat = stub_->GenerateStream(&context, EndlessRequest());
  Event event;
  ASSERT_TRUE(seat->Read(&event));
  v1::GenerateRequest request = Request({10, 1});
  request.mutable_scheduling()->set_queue_timeout_ms(30);
  const grpc::Status status = Generate(request);
  ExpectEnd(status, kDeadline, "QUEUE_TIMEOUT");
  EXPECT_GE(std::stoi(Metadata(status, "queue_ms")), 30);
  context.TryCancel();
  seat->Finish();
}

TEST_F(CallEndTest, ADeadlineThatCannotBeKept) {
  // Given a server that has learnt how slowly it reads prompts: 64 rows take a tenth of a second.
  StartServer({}, {.max_context = 60'000, .scheduler = {.reject_hopeless = true}});
  step_us_ = 100'000;
  grpc::ClientContext seat_context, context;
  auto seat = stub_->GenerateStream(&seat_context, EndlessRequest());
  Event event;
  ASSERT_TRUE(seat->Read(&event));
  v1::GenerateRequest request = Request({10});
  request.mutable_stopping()->set_max_tokens(1);
  for (int i = 0; i < 200; ++i) request.mutable_token_ids()->add_ids(5);
  ASSERT_TRUE(Generate(request).ok());
  ASSERT_GT(rig_->scheduler().stats().prompt_tokens_per_s, 0);
  // When a call wants the first token after 50'000 of them within ten seconds.
  for (int i = 0; i < 49'800; ++i) request.mutable_token_ids()->add_ids(5);
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(10'000));
  v1::GenerateResponse response;
  const grpc::Status status = stub_->Generate(&context, request, &response);
  // Then it is told at once, not when the time is over.
  ExpectEnd(status, kDeadline, "DEADLINE_UNATTAINABLE");
  seat_context.TryCancel();
  seat->Finish();
}

TEST_F(CallEndTest, LogitsThatAreNoNumbers) {
  StartServer();
  v1::GenerateRequest request = Request({10, ScriptedDevice::kNotFinite});
  const grpc::Status status = Generate(request);
  ExpectEnd(status, grpc::StatusCode::INTERNAL, "NUMERIC_FAILURE");
  EXPECT_THAT(DetailsOf(status).info.metadata(), Contains(Key("step")));
  EXPECT_THAT(DetailsOf(status).info.metadata(), Contains(Key("position")));
  EXPECT_TRUE(Generate(Request({10, 1})).ok());  // the neighbours live on
}

TEST_F(CallEndTest, ADrain) {
  StartServer();
  hold_at_ = 1;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request({10, 1}));
  Event event;
  ASSERT_TRUE(reader->Read(&event));
  std::thread shutdown([&] { server_->Shutdown(60'000); });
  Eventually([&] {
    return !CallRaw("/tandem.v1.Generation/Tokenize", "\x12\x01x").ok();  // text: "x"
  });
  const grpc::Status status = Both(Request({10, 1}));
  ExpectEnd(status, grpc::StatusCode::UNAVAILABLE, "DRAINING", {"RetryInfo"});
  EXPECT_EQ(DetailsOf(status).retry->retry_delay().seconds(), 0);
  EXPECT_EQ(DetailsOf(status).retry->retry_delay().nanos(), 0);
  release_.Set();
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  shutdown.join();
}

// ---- calls that are given up ----

// Brings a call with the id "it" into a state, and lets it go on.
struct Stage {
  const char* name;
  State::State state;
};
constexpr Stage kStages[] = {{"tokenizing", State::TOKENIZING},
                             {"queued", State::QUEUED},
                             {"prefill", State::PREFILL},
                             {"decode", State::DECODE}};

class StageTest : public CallEndTest, public ::testing::WithParamInterface<Stage> {
 protected:
  void Prepare(GrpcConfig config = {}) {
    StartServer(config, {.max_slots = 1, .max_context = 60'000});
    const State::State state = GetParam().state;
    if (state == State::TOKENIZING) HoldTokenizing();
    if (state == State::QUEUED) TakeTheSeat();
    if (state == State::PREFILL) hold_at_ = 0;
    if (state == State::DECODE) step_us_ = 200;
    request_ = EndlessRequest();
    request_.set_request_id("it");
  }
  // A held step answers nobody: then the counts must do.
  void WaitStage() {
    const State::State state = GetParam().state;
    if (state == State::QUEUED) {
      Eventually([&] { return rig_->scheduler().stats().queued_requests == 1; });
    } else if (state == State::PREFILL) {
      Eventually([&] { return rig_->scheduler().stats().running == 1; });
    } else {
      WaitState("it", state);
    }
  }
  // Everything is free, and the id as well.
  void ExpectNothingLeft() {
    if (seat_ != nullptr) LeaveTheSeat();
    release_.Set();
    Eventually([&] {
      return Idle() && rig_->scheduler().stats().queued_requests == 0 &&
             rig_->scheduler().stats().queued_prompt_tokens == 0;
    });
    v1::GenerateRequest same = Request({10, 1});
    same.set_request_id("it");
    Eventually([&] { return Generate(same).ok(); });
  }

  v1::GenerateRequest request_;
};

TEST_P(StageTest, AStreamWhoseClientLeavesFreesEverything) {
  Prepare();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, request_);
  WaitStage();
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ExpectNothingLeft();
  Eventually([&] { return Exports("code=\"CANCELLED\",method=\"GenerateStream\"}"); });
}

TEST_P(StageTest, AUnaryCallWhoseClientLeavesFreesEverything) {
  Prepare();
  grpc::ClientContext context;
  grpc::Status status;
  std::thread caller([&] {
    v1::GenerateResponse response;
    status = stub_->Generate(&context, request_, &response);
  });
  WaitStage();
  context.TryCancel();
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  ExpectNothingLeft();
}

TEST_P(StageTest, TheClientsDeadlineFreesEverything) {
  Prepare();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(400));
  auto reader = stub_->GenerateStream(&context, request_);
  WaitStage();
  Event event;
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), kDeadline);
  ExpectNothingLeft();
  Eventually([&] { return Exports("code=\"DEADLINE_EXCEEDED\",method=\"GenerateStream\"} 1"); });
}

TEST_P(StageTest, TheServersOwnDeadlineIsTold) {
  Prepare({.default_deadline_s = 1});
  grpc::Status status;
  std::thread caller([&] { status = Generate(request_); });
  WaitStage();
  if (GetParam().state != State::DECODE) {
    std::this_thread::sleep_for(milliseconds(1000));  // the state lasts longer than the deadline
    release_.Set();
  }
  caller.join();
  ExpectEnd(status, kDeadline, "DEADLINE");
  ExpectNothingLeft();
}

INSTANTIATE_TEST_SUITE_P(All, StageTest, ::testing::ValuesIn(kStages),
                         [](const auto& info) { return std::string(info.param.name); });

// ---- trailers ----

TEST_F(CallEndTest, TrailersComeWithStreamsAndUnaryCallsAlsoWhenTheyFail) {
  StartServer();
  const char* const keys[] = {"x-tandem-queue-ms",          "x-tandem-ttft-ms",
                              "x-tandem-prompt-tokens",     "x-tandem-cached-tokens",
                              "x-tandem-completion-tokens", "x-tandem-drafted-tokens",
                              "x-tandem-accepted-tokens"};
  for (const bool fails : {false, true}) {
    v1::GenerateRequest request = Request({10, fails ? ScriptedDevice::kNotFinite : 11, 1});
    grpc::ClientContext unary, streaming;
    v1::GenerateResponse response;
    EXPECT_EQ(stub_->Generate(&unary, request, &response).ok(), !fails);
    grpc::Status status;
    Stream(request, &status, &streaming);
    for (const grpc::ClientContext* context : {&unary, &streaming}) {
      for (const char* key : keys) {
        const auto value = Find(context->GetServerTrailingMetadata(), key);
        ASSERT_TRUE(value.has_value()) << key;
        EXPECT_THAT(*value, ::testing::MatchesRegex("[0-9]+"));
      }
      EXPECT_EQ(Find(context->GetServerTrailingMetadata(), "x-tandem-completion-tokens"),
                fails ? "1" : "3");
    }
  }
}

}  // namespace
}  // namespace tandem::server
