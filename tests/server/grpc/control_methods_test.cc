// Abort, GetRequestStatus, GetStats, WatchStats.

#include <chrono>
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

using ::testing::ElementsAre;
using State = v1::RequestStatus;

class ControlTest : public GrpcServerTest {
 protected:
  grpc::Status Abort(const std::vector<std::string>& ids, v1::AbortResponse* response,
                     const std::string& tenant = "") {
    grpc::ClientContext context;
    v1::AbortRequest request;
    for (const std::string& id : ids) request.add_request_ids(id);
    request.set_tenant(tenant);
    return stub_->Abort(&context, request, response);
  }
  v1::GenerateRequest Endless(const std::string& id) {
    v1::GenerateRequest request = EndlessRequest();
    request.set_request_id(id);
    return request;
  }
  // Keeps the text pool from reading prompts until `release_`.
  void HoldTokenizing() {
    rig_->generator().RunOnTextPool([this] { release_.Wait(); });
  }
};

TEST_F(ControlTest, AnAbortedStreamKeepsWhatItHasAndEndsWell) {
  StartServer({}, {.max_context = 60'000});
  step_us_ = 100;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Endless("a"));
  Event event;
  while (reader->Read(&event) && !event.has_delta()) {
  }
  v1::AbortResponse response;
  ASSERT_TRUE(Abort({"nobody", "a", ""}, &response).ok());
  EXPECT_EQ(response.aborted(), 1u);
  EXPECT_THAT(response.unknown_ids(), ElementsAre("nobody", ""));
  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
  Event last;
  while (reader->Read(&event)) {
    if (event.has_choice_finished()) reason = event.choice_finished().finish_reason();
    last = event;
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(reason, v1::ABORTED);
  EXPECT_TRUE(last.has_completed());
  Eventually([&] { return Idle(); });
}

TEST_F(ControlTest, AnAbortedUnaryCallAnswersWithWhatItHas) {
  StartServer({}, {.max_context = 60'000});
  step_us_ = 100;
  v1::GenerateResponse answer;
  grpc::Status status;
  const v1::GenerateRequest request = Endless("a");
  std::thread caller([&] { status = Generate(request, &answer); });
  WaitState("a", State::DECODE);
  v1::AbortResponse response;
  ASSERT_TRUE(Abort({"a"}, &response).ok());
  caller.join();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(answer.choices(0).finish_reason(), v1::ABORTED);
  EXPECT_GT(answer.choices(0).token_ids_size(), 0);
}

TEST_F(ControlTest, AnAbortBeforeTheFirstTokenIsAnError) {
  // Given one request in the only seat, and one that waits.
  StartServer({}, {.max_slots = 1, .max_context = 60'000});
  step_us_ = 100;
  grpc::ClientContext first_context, second_context;
  auto first = stub_->GenerateStream(&first_context, Endless("first"));
  Event event;
  ASSERT_TRUE(first->Read(&event));
  auto second = stub_->GenerateStream(&second_context, Endless("second"));
  WaitState("second", State::QUEUED);
  // When that is aborted.
  v1::AbortResponse response;
  ASSERT_TRUE(Abort({"second"}, &response).ok());
  EXPECT_EQ(response.aborted(), 1u);
  // Then it has nothing to show, and the other one goes on.
  EXPECT_FALSE(second->Read(&event));
  const grpc::Status status = second->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED) << status.error_message();
  EXPECT_EQ(Reason(status), "ABORTED_BY_REQUEST");
  EXPECT_EQ(StatusOf("first").state(), State::DECODE);
  first_context.TryCancel();
  first->Finish();
  Eventually([&] { return Idle(); });
}

TEST_F(ControlTest, AnAbortReachesAPromptThatIsStillRead) {
  StartServer();
  HoldTokenizing();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Endless("a"));
  WaitState("a", State::TOKENIZING);
  v1::AbortResponse response;
  ASSERT_TRUE(Abort({"a"}, &response).ok());
  EXPECT_EQ(response.aborted(), 1u);
  release_.Set();
  Event event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(Reason(reader->Finish()), "ABORTED_BY_REQUEST");
}

TEST_F(ControlTest, AnAbortMustNameRequests) {
  StartServer();
  v1::AbortResponse response;
  for (const std::vector<std::string>& ids :
       {std::vector<std::string>{}, std::vector<std::string>(1025, "a")}) {
    const grpc::Status status = Abort(ids, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(DetailsOf(status).bad.field_violations(0).field(), "request_ids");
  }
  const grpc::Status bad = Abort({"a", "not printable \x01"}, &response);
  EXPECT_EQ(DetailsOf(bad).bad.field_violations(0).field(), "request_ids[1]");
  EXPECT_TRUE(Abort(std::vector<std::string>(1024, "a"), &response).ok());
  EXPECT_EQ(response.unknown_ids_size(), 1024);
}

TEST_F(ControlTest, AbortingATenantIsForAdministrators) {
  StartServer();
  v1::AbortResponse response;
  const grpc::Status status = Abort({}, &response, "acme");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Reason(status), "AUTH");
}

TEST_F(ControlTest, ARequestIsFollowedFromThePromptToTheEnd) {
  // Given a request in decode, one with a long prompt beside it, and one behind both.
  StartServer({}, {.max_slots = 2, .max_context = 60'000});
  step_us_ = 10'000;
  v1::GenerateRequest long_prompt = Endless("second");
  for (int i = 0; i < 4000; ++i) long_prompt.mutable_token_ids()->add_ids(5);
  grpc::ClientContext first_context, second_context, third_context;
  auto first = stub_->GenerateStream(&first_context, Endless("first"));
  WaitState("first", State::DECODE);
  auto second = stub_->GenerateStream(&second_context, long_prompt);
  WaitState("second", State::PREFILL);
  auto third = stub_->GenerateStream(&third_context, Endless("third"));
  WaitState("third", State::QUEUED);
  const State one = StatusOf("first"), three = StatusOf("third");
  EXPECT_EQ(one.request_id(), "first");
  EXPECT_GT(one.completion_tokens(), 0u);
  EXPECT_GT(one.prompt_tokens(), 0u);
  EXPECT_GT(one.age_s(), 0.0);
  EXPECT_EQ(three.completion_tokens(), 0u);
  EXPECT_EQ(three.queue_position(), 0u);  // the next one
  // When they have ended.
  for (auto* context : {&first_context, &second_context, &third_context}) context->TryCancel();
  for (auto* reader : {first.get(), second.get(), third.get()}) reader->Finish();
  // Then nobody knows them any more.
  grpc::Status status;
  Eventually([&] {
    StatusOf("first", &status);
    return !status.ok();
  });
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Reason(status), "REQUEST_NOT_FOUND");
  EXPECT_THAT(DetailsOf(status).types, ::testing::Contains("ResourceInfo"));
}

TEST_F(ControlTest, ARequestThatGaveItsBlocksToAnotherSaysSo) {
  // Given memory for one request and a bit.
  StartServer({}, {.max_slots = 2, .max_context = 256, .num_blocks = 20});
  step_us_ = 10'000;
  v1::GenerateRequest one = Endless("first"), two = Endless("second");
  for (v1::GenerateRequest* request : {&one, &two}) {
    for (int i = 0; i < 140; ++i) request->mutable_token_ids()->add_ids(5);
  }
  grpc::ClientContext first_context, second_context;
  auto first = stub_->GenerateStream(&first_context, one);
  WaitState("first", State::DECODE);
  auto second = stub_->GenerateStream(&second_context, two);
  WaitState("second", State::PREEMPTED);
  EXPECT_EQ(StatusOf("first").state(), State::DECODE);
  // Then it goes on where it was.
  Event event;
  for (auto* reader : {first.get(), second.get()}) {
    uint64_t tokens = 0;
    for (step_us_ = 0; reader->Read(&event); tokens += event.delta().token_ids_size()) {
      if (event.has_delta()) {
        EXPECT_EQ(event.delta().position(), tokens);
      }
    }
    EXPECT_TRUE(reader->Finish().ok());
    EXPECT_EQ(tokens, event.completed().usage().completion_tokens());
  }
  EXPECT_GT(event.completed().usage().preemptions(), 0u);
}

TEST_F(ControlTest, AStatusMustBeOfSomeRequest) {
  StartServer();
  grpc::Status status;
  StatusOf("", &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  StatusOf("a b", &status);
  EXPECT_EQ(DetailsOf(status).bad.field_violations(0).field(), "request_id");
}

TEST_F(ControlTest, StatsTellWhatRunsAndWhatWaits) {
  StartServer({}, {.max_slots = 1});
  hold_at_ = 1;
  grpc::ClientContext first_context, second_context;
  auto first = stub_->GenerateStream(&first_context, Request({10, 1}));
  Event event;
  ASSERT_TRUE(first->Read(&event));
  auto second = stub_->GenerateStream(&second_context, Request({10, 1}));
  v1::EngineStats stats;
  Eventually([&] {
    grpc::ClientContext context;
    EXPECT_TRUE(stub_->GetStats(&context, {}, &stats).ok());
    return stats.waiting() == 1;
  });
  EXPECT_EQ(stats.running(), 1u);
  EXPECT_EQ(stats.paused(), 0u);
  EXPECT_GT(stats.queued_prompt_tokens(), 0u);
  ASSERT_EQ(stats.kv_groups_size(), 1);  // the rig's model has no sliding layers
  EXPECT_EQ(stats.kv_groups(0).name(), "full");
  EXPECT_EQ(stats.kv_groups(0).block_size(), 16u);
  EXPECT_EQ(stats.kv_groups(0).format(), "bf16");
  EXPECT_EQ(stats.kv_blocks_total(), stats.kv_groups(0).total());
  EXPECT_EQ(stats.kv_blocks_used(), stats.kv_groups(0).used());
  EXPECT_DOUBLE_EQ(stats.kv_usage(), double(stats.kv_blocks_used()) / stats.kv_blocks_total());
  EXPECT_GT(stats.kv_usage(), 0.0);
  EXPECT_FALSE(stats.draining());
  EXPECT_GT(stats.time().seconds(), 1'600'000'000);
}

TEST_F(ControlTest, WatchersGetMessagesUntilTheDrainWhichDoesNotWaitForThem) {
  StartServer();
  constexpr int kWatchers = 40;
  grpc::ClientContext contexts[kWatchers];
  std::vector<std::unique_ptr<grpc::ClientReader<v1::EngineStats>>> readers;
  v1::WatchStatsRequest request;
  request.set_interval_ms(100);
  for (auto& context : contexts) readers.push_back(stub_->WatchStats(&context, request));
  v1::EngineStats stats;
  double before = 0;
  for (auto& reader : readers) ASSERT_TRUE(reader->Read(&stats));
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(readers[0]->Read(&stats));
    const double time = double(stats.time().seconds()) + stats.time().nanos() * 1e-9;
    EXPECT_GT(time, before);
    before = time;
  }
  server_->Shutdown(3'600'000);  // an hour, were it to wait
  for (auto& reader : readers) {
    while (reader->Read(&stats)) {
    }
    const grpc::Status status = reader->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(Reason(status), "DRAINING");
  }
}

TEST_F(ControlTest, AWatcherMayLeaveAndGetsItsHeadersAtOnce) {
  StartServer();
  v1::WatchStatsRequest request;
  request.set_interval_ms(60'000);
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    auto reader = stub_->WatchStats(&context, request);
    reader->WaitForInitialMetadata();
    context.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  Eventually([&] { return Exports("code=\"CANCELLED\",method=\"WatchStats\"} 20"); });
}

TEST_F(ControlTest, WatchersAreRefusedBadIntervalsAndModelsThatLoad) {
  StartServer({}, {}, /*loaded=*/false);
  grpc::ClientContext loading, low, high;
  v1::EngineStats stats;
  EXPECT_EQ(Reason(stub_->WatchStats(&loading, {})->Finish()), "MODEL_LOADING");
  grpc::ClientContext get;
  EXPECT_EQ(Reason(stub_->GetStats(&get, {}, &stats)), "MODEL_LOADING");
  Load(256);
  v1::WatchStatsRequest request;
  request.set_interval_ms(99);
  const grpc::Status too_low = stub_->WatchStats(&low, request)->Finish();
  EXPECT_EQ(DetailsOf(too_low).bad.field_violations(0).field(), "interval_ms");
  request.set_interval_ms(60'001);
  const grpc::Status too_high = stub_->WatchStats(&high, request)->Finish();
  EXPECT_EQ(too_high.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(CallRaw("/tandem.v1.Generation/Abort", "\x1f").error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(CallRaw("/tandem.v1.Generation/GetRequestStatus", "\x1f").error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace tandem::server
