// The whole front over loopback.

#include <chrono>
#include <numeric>
#include <optional>
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
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;

constexpr char kMethod[] = "/tandem.v1.Generation/";

TEST_F(GrpcServerTest, AStreamTellsItsStoryInOrder) {
  StartServer();
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "from-header");
  grpc::Status status;
  const std::vector<Event> events = Stream(Request({10, 11, 12, 1}), &status, &context);
  ASSERT_TRUE(status.ok()) << status.error_message();
  // Accepted, deltas, the end of the choice, the end.
  ASSERT_GE(events.size(), 4u);
  std::vector<uint32_t> ids;
  std::string text;
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].seq(), i);
    if (i == 0) {
      EXPECT_EQ(events[i].accepted().request_id(), "from-header");
      EXPECT_EQ(events[i].accepted().model(), "demo");
      EXPECT_EQ(events[i].accepted().effective_seed(), last_seed_);
      EXPECT_GT(events[i].accepted().prompt_tokens(), 0u);
    } else if (i + 2 < events.size()) {
      ASSERT_TRUE(events[i].has_delta());
      EXPECT_EQ(events[i].delta().position(), ids.size());
      ids.insert(ids.end(), events[i].delta().token_ids().begin(),
                 events[i].delta().token_ids().end());
      text += events[i].delta().text();
    }
  }
  EXPECT_THAT(ids, ElementsAre(10, 11, 12, 1));
  EXPECT_EQ(text.size(), tokenizer_.vocabulary().Bytes(10).size() +
                             tokenizer_.vocabulary().Bytes(11).size() +
                             tokenizer_.vocabulary().Bytes(12).size());
  const v1::ChoiceFinished& finished = events[events.size() - 2].choice_finished();
  EXPECT_EQ(finished.finish_reason(), v1::STOP_EOS);
  EXPECT_EQ(finished.stop_match().token_id(), 1u);
  EXPECT_EQ(finished.completion_tokens(), 4u);
  EXPECT_EQ(events.back().completed().usage().completion_tokens(), 4u);
  // And in metadata.
  EXPECT_EQ(Find(context.GetServerInitialMetadata(), "x-request-id"), "from-header");
  EXPECT_EQ(Find(context.GetServerInitialMetadata(), "x-tandem-replica"), "pod-1");
  EXPECT_EQ(Find(context.GetServerInitialMetadata(), "x-tandem-model-revision"), "r1");
  EXPECT_EQ(Find(context.GetServerTrailingMetadata(), "x-tandem-completion-tokens"), "4");
  EXPECT_THAT(context.GetServerTrailingMetadata(), Contains(Key("x-tandem-ttft-ms")));
}

TEST_F(GrpcServerTest, AUnaryCallHasTheSameAnswerInOnePiece) {
  StartServer();
  v1::GenerateRequest request = ScriptedRequest({{10, 11, 1}, {12, 13}});
  request.mutable_sampling()->set_n(2);
  request.mutable_stopping()->set_max_tokens(3);
  request.mutable_output()->set_logprobs(0);
  request.mutable_output()->set_prompt_logprobs(0);
  request.mutable_output()->set_timing(true);
  request.mutable_output()->set_speculative_stats(true);
  request.mutable_output()->set_echo_prompt_token_ids(true);
  v1::GenerateResponse response;
  const grpc::Status status = Generate(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.choices_size(), 2);
  EXPECT_THAT(response.choices(0).token_ids(), ElementsAre(10, 11, 1));
  EXPECT_EQ(response.choices(0).finish_reason(), v1::STOP_EOS);
  EXPECT_EQ(response.choices(0).logprobs_size(), 3);
  EXPECT_THAT(response.choices(1).token_ids(), ElementsAre(12, 13, 13));
  EXPECT_EQ(response.choices(1).finish_reason(), v1::MAX_TOKENS);
  EXPECT_EQ(response.usage().completion_tokens(), 6u);
  EXPECT_TRUE(response.has_timing());
  EXPECT_FALSE(response.speculative().enabled());
  EXPECT_GT(response.created().seconds(), 1'600'000'000);
  EXPECT_EQ(response.request_id().size(), 36u);  // a UUID of the server's making
  // The prompt, scored from its second token on.
  EXPECT_EQ(response.prompt_logprobs_size(), response.prompt_token_ids_size());
  EXPECT_FALSE(response.prompt_logprobs(0).has_logprob());
  for (int i = 1; i < response.prompt_logprobs_size(); ++i) {
    EXPECT_EQ(response.prompt_logprobs(i).token_id(), response.prompt_token_ids(i));
    EXPECT_TRUE(response.prompt_logprobs(i).has_logprob());
  }
}

TEST_F(GrpcServerTest, NothingIsSentBeforeARefusalNotEvenHeaders) {
  StartServer();
  v1::GenerateRequest request = Request({10});
  request.mutable_sampling()->set_top_p(2.0f);
  grpc::ClientContext context;
  grpc::Status status;
  EXPECT_TRUE(Stream(request, &status, &context).empty());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailsOf(status).bad.field_violations(0).field(), "sampling.top_p");
  EXPECT_FALSE(Find(context.GetServerInitialMetadata(), "x-request-id").has_value());
  EXPECT_EQ(Reason(Generate(request)), "BAD_PARAMETER");
}

TEST_F(GrpcServerTest, BytesThatAreNoMessageAreABadArgument) {
  StartServer();
  // A text that is not UTF-8; a field cut off; an unknown wire type.
  for (const std::string bytes : {"\x1a\x01\xff", "\x1a\x7f", "\x1f"}) {
    const grpc::Status status = CallRaw(absl::StrCat(kMethod, "Generate"), bytes);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
    EXPECT_EQ(Reason(status), "BAD_PARAMETER");
    for (const char* method : {"Tokenize", "Detokenize", "CountTokens", "GetModel"}) {
      EXPECT_EQ(CallRaw(absl::StrCat(kMethod, method), "\x1f").error_code(),
                grpc::StatusCode::INVALID_ARGUMENT);
    }
  }
}

TEST_F(GrpcServerTest, ErrorsOfThePromptReachTheClient) {
  StartServer({}, {.max_context = 64});
  v1::GenerateRequest request = Request({10});
  request.set_text("");
  EXPECT_EQ(Reason(Generate(request)), "EMPTY_PROMPT");
  request.mutable_token_ids()->add_ids(100'000);
  EXPECT_EQ(Reason(Generate(request)), "BAD_TOKEN_ID");
  request.mutable_token_ids()->mutable_ids()->Clear();
  for (int i = 0; i < 64; ++i) request.mutable_token_ids()->add_ids(5);
  request.mutable_stopping()->clear_max_tokens();
  const grpc::Status too_long = Generate(request);
  EXPECT_EQ(Reason(too_long), "PROMPT_TOO_LONG");
  EXPECT_EQ(Metadata(too_long, "prompt_tokens"), "64");
  EXPECT_EQ(Metadata(too_long, "max_prompt_tokens"), "63");
}

TEST_F(GrpcServerTest, ScoringALongPromptIsRefusedBeforeAnythingIsSent) {
  StartServer({.max_prompt_logprob_tokens = 3});
  v1::GenerateRequest request = Request({10});
  for (int i = 0; i < 4; ++i) request.mutable_token_ids()->add_ids(5);
  request.mutable_output()->set_prompt_logprobs(1);
  grpc::ClientContext context;
  grpc::Status status;
  EXPECT_TRUE(Stream(request, &status, &context).empty());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailsOf(status).bad.field_violations(0).field(), "output.prompt_logprobs");
  EXPECT_THAT(status.error_message(), HasSubstr("at most 3"));
  Eventually([&] { return Idle(); });
}

TEST_F(GrpcServerTest, WhileTheModelLoadsCallsAreToldToComeBack) {
  StartServer({}, {}, /*loaded=*/false);
  const grpc::Status status = Generate(Request({10}));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Reason(status), "MODEL_LOADING");
  EXPECT_TRUE(DetailsOf(status).retry.has_value());
  grpc::ClientContext context;
  v1::ServerInfo info;
  EXPECT_TRUE(stub_->GetServerInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.state(), "loading");
  EXPECT_EQ(info.version(), "9.9");
  for (const char* name : {"", "readiness", "tandem.v1.Generation"}) EXPECT_EQ(Health(name), 2);
  EXPECT_EQ(Health("liveness"), 1);
  EXPECT_EQ(Health("no.such.Service"), -1);
  // Until it is there.
  Load(256);
  for (const char* name : {"", "readiness", "tandem.v1.Generation"}) {
    Eventually([&] { return Health(name) == 1; });
  }
  EXPECT_TRUE(Generate(Request({10, 1})).ok());
}

TEST_F(GrpcServerTest, AClientThatLeavesInDecodeFreesItsMemory) {
  StartServer({}, {.max_context = 60'000});
  step_us_ = 100;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, EndlessRequest());
  Event event;
  while (reader->Read(&event) && !event.has_delta()) {
  }
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  Eventually([&] { return Idle(); });
  Eventually([&] { return Exports("cause=\"client\"} 1"); });
  Eventually([&] { return Exports("code=\"CANCELLED\",method=\"GenerateStream\"} 1"); });
}

TEST_F(GrpcServerTest, AClientThatLeavesBeforeItsFirstTokenFreesItsMemory) {
  StartServer();
  hold_at_ = 0;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, EndlessRequest());
  Eventually([&] { return rig_->scheduler().stats().running == 1; });
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  release_.Set();
  Eventually([&] { return Idle(); });
}

TEST_F(GrpcServerTest, AnAbandonedUnaryCallFreesItsMemory) {
  StartServer({}, {.max_context = 60'000});
  step_us_ = 100;
  grpc::ClientContext context;
  grpc::Status status;
  std::thread caller([&] {
    v1::GenerateResponse response;
    status = stub_->Generate(&context, EndlessRequest(), &response);
  });
  Eventually([&] { return rig_->scheduler().stats().generated_tokens_total > 0; });
  context.TryCancel();
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  Eventually([&] { return Idle(); });
}

TEST_F(GrpcServerTest, ADeadlineEndsTheRequestToo) {
  StartServer({}, {.max_context = 60'000});
  ASSERT_TRUE(Generate(Request({10, 1})).ok());  // connecting takes none of the time
  step_us_ = 100;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(500));
  grpc::Status status;
  Stream(EndlessRequest(), &status, &context);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  Eventually([&] { return Idle(); });
  Eventually([&] { return Exports("cause=\"deadline\"} 1"); });
}

TEST_F(GrpcServerTest, AnIdIsRefusedWhileItIsInUseAndFreeAfterwards) {
  StartServer();
  hold_at_ = 1;
  v1::GenerateRequest request = Request({10, 1});
  request.set_request_id("same");
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, request);
  Event event;
  ASSERT_TRUE(reader->Read(&event));
  const grpc::Status second = Generate(request);
  EXPECT_EQ(second.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(Reason(second), "DUPLICATE_REQUEST_ID");
  release_.Set();
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(Generate(request).ok());
}

TEST_F(GrpcServerTest, AFullQueueSaysWhenToComeBack) {
  // Given a held request in the only seat and another in the only place of the queue.
  StartServer({}, {.max_slots = 1, .max_queued_requests = 1});
  hold_at_ = 1;
  grpc::ClientContext first_context, second_context;
  auto first = stub_->GenerateStream(&first_context, Request({10, 1}));
  Event event;
  ASSERT_TRUE(first->Read(&event));
  auto second = stub_->GenerateStream(&second_context, Request({10, 1}));
  Eventually([&] { return rig_->scheduler().stats().queued_requests == 1; });
  // When a third one comes.
  const grpc::Status status = Generate(Request({10, 1}));
  // Then it is told to retry, and the others go on.
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Reason(status), "QUEUE_FULL");
  EXPECT_TRUE(DetailsOf(status).retry.has_value());
  EXPECT_TRUE(Exports("reason=\"QUEUE_FULL\"} 1"));
  release_.Set();
  for (auto* reader : {first.get(), second.get()}) {
    while (reader->Read(&event)) {
    }
    EXPECT_TRUE(reader->Finish().ok());
  }
}

TEST_F(GrpcServerTest, AMergedStreamOfASlowReaderIsStillComplete) {
  StartServer({}, {.max_context = 20'000});
  grpc::ClientContext context;
  v1::GenerateRequest request = EndlessRequest();
  request.mutable_output()->set_logprobs(0);
  auto reader = stub_->GenerateStream(&context, request);
  Eventually([&] { return rig_->scheduler().stats().generated_tokens_total > 1000 && Idle(); });
  Event event;
  uint64_t seq = 0, tokens = 0;
  std::optional<v1::Completed> completed;
  while (reader->Read(&event)) {
    EXPECT_EQ(event.seq(), seq++);
    if (event.has_delta()) {
      EXPECT_EQ(event.delta().position(), tokens);
      tokens += event.delta().token_ids_size();
    }
    if (event.has_completed()) completed = event.completed();
  }
  EXPECT_TRUE(reader->Finish().ok());
  ASSERT_TRUE(completed.has_value());
  EXPECT_EQ(tokens, completed->usage().completion_tokens());
  EXPECT_LT(seq, tokens);  // merged indeed
}

TEST_F(GrpcServerTest, ADrainFinishesWhatRunsAndRefusesWhatComes) {
  StartServer();
  hold_at_ = 1;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Request({10, 11, 1}));
  Event event;
  ASSERT_TRUE(reader->Read(&event));
  Eventually([&] { return Health("readiness") == 1; });
  std::thread shutdown([&] { server_->Shutdown(60'000); });
  Eventually([&] { return Health("readiness") == 2; });
  const grpc::Status refused = Generate(Request({10, 1}));
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Reason(refused), "DRAINING");
  EXPECT_EQ(health_.phase(), Phase::kDraining);
  EXPECT_EQ(Health("liveness"), 1);
  release_.Set();
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(event.has_completed());
  shutdown.join();
  EXPECT_EQ(health_.phase(), Phase::kStopped);
}

TEST_F(GrpcServerTest, WhenTheDrainIsOverTheRestIsTold) {
  StartServer({}, {.max_context = 60'000});
  step_us_ = 100;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, EndlessRequest());
  Event event;
  while (reader->Read(&event) && !event.has_delta()) {
  }
  std::thread shutdown([&] { server_->Shutdown(60'000); });
  Eventually([&] { return health_.phase() == Phase::kDraining; });
  server_->HurryShutdown();
  while (reader->Read(&event)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  EXPECT_EQ(Reason(status), "SHUTTING_DOWN");
  EXPECT_THAT(DetailsOf(status).info.metadata(), Contains(Key("completion_tokens")));
  shutdown.join();
}

TEST_F(GrpcServerTest, MethodsOfLaterVersionsSayTheirNames) {
  StartServer();
  const grpc::Status embed = CallRaw(absl::StrCat(kMethod, "Embed"), "");
  EXPECT_EQ(embed.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(Reason(embed), "FEATURE_UNSUPPORTED");
  EXPECT_EQ(Metadata(embed, "feature"), "method Embed");
  for (const char* method : {"Drain", "Undrain", "SetLimits", "SetLogLevel", "StartProfile",
                             "StopProfile", "DumpState"}) {
    const grpc::Status status = CallRaw(absl::StrCat("/tandem.v1.Admin/", method), "");
    EXPECT_EQ(Reason(status), "FEATURE_UNSUPPORTED");
  }
  grpc::ClientContext bundle;
  EXPECT_EQ(Reason(stub_->GetTokenizerBundle(&bundle, {})->Finish()), "FEATURE_UNSUPPORTED");
}

TEST_F(GrpcServerTest, TheTokenizerIsServed) {
  StartServer();
  grpc::ClientContext tokenize, count, detokenize, bad;
  v1::TokenizeRequest request;
  request.set_text("hello");
  request.set_offsets(true);
  request.set_token_bytes(true);
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(stub_->Tokenize(&tokenize, request, &tokens).ok());
  const Encoding expected = tokenizer_.EncodePrompt("hello", true, false);
  EXPECT_THAT(tokens.token_ids(), ::testing::ElementsAreArray(expected.ids));
  EXPECT_THAT(tokens.byte_offsets(), ::testing::ElementsAreArray(expected.byte_offsets));
  EXPECT_EQ(tokens.token_bytes_size(), tokens.token_ids_size());
  EXPECT_EQ(tokens.count(), expected.ids.size());
  EXPECT_EQ(tokens.max_prompt_tokens(), 255u);
  v1::CountTokensResponse counted;
  ASSERT_TRUE(stub_->CountTokens(&count, request, &counted).ok());
  EXPECT_EQ(counted.count(), expected.ids.size());
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  ASSERT_TRUE(stub_->Detokenize(&detokenize, back, &text).ok());
  EXPECT_EQ(text.text(), "hello");
  back.add_token_ids(1'000'000);
  const grpc::Status status = stub_->Detokenize(&bad, back, &text);
  EXPECT_EQ(Reason(status), "BAD_TOKEN_ID");
}

TEST_F(GrpcServerTest, TokenizingBadInputIsRefused) {
  StartServer();
  v1::TokenizeRequest missing, chat, huge;
  chat.mutable_chat();
  huge.set_text(std::string((4 << 20) + 1, 'a'));
  v1::TokenizeResponse response;
  grpc::ClientContext a, b, c;
  EXPECT_EQ(DetailsOf(stub_->Tokenize(&a, missing, &response)).bad.field_violations(0).field(),
            "input");
  EXPECT_EQ(Metadata(stub_->Tokenize(&b, chat, &response), "feature"), "chat");
  EXPECT_EQ(DetailsOf(stub_->Tokenize(&c, huge, &response)).bad.field_violations(0).field(),
            "text");
}

TEST_F(GrpcServerTest, TheModelIsDescribed) {
  StartServer();
  grpc::ClientContext list, get, wrong;
  v1::ListModelsResponse models;
  ASSERT_TRUE(stub_->ListModels(&list, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).name(), "demo");
  EXPECT_EQ(models.models(0).context_length(), 256u);
  EXPECT_EQ(models.models(0).default_sampling().temperature(), 0.0f);
  EXPECT_FALSE(models.models(0).drafter().loaded());
  v1::GetModelRequest request;
  v1::ModelInfo info;
  request.set_model("demo:r1");
  EXPECT_TRUE(stub_->GetModel(&get, request, &info).ok());
  EXPECT_THAT(info.eos_token_ids(), ElementsAre(1));
  request.set_model("other");
  const grpc::Status status = stub_->GetModel(&wrong, request, &info);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Reason(status), "MODEL_NOT_FOUND");
}

TEST_F(GrpcServerTest, TheWholeVocabularyOfErrorsNeverIncludesUnknown) {
  StartServer();
  v1::GenerateRequest request = Request({10, 11});
  rig_->device().FailFrom(last_seed_, 1);
  const grpc::Status running = Generate(request);
  EXPECT_EQ(running.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(Reason(running), "ENGINE_FAILURE");
  const grpc::Status later = Generate(Request({10}));
  EXPECT_EQ(later.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Reason(later), "ENGINE_DOWN");
}

TEST_F(GrpcServerTest, ABusyPortIsAnErrorThatNamesIt) {
  StartServer();
  const std::string taken = absl::StrCat("127.0.0.1:", server_->ports()[0]);
  const auto second = GrpcServer::Start({.listen = {"127.0.0.1:0", taken}}, health_, metrics_);
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(taken));
}

TEST_F(GrpcServerTest, AMessageAboveTheLimitIsRefusedByGrpc) {
  StartServer({.max_recv_mib = 1});
  v1::GenerateRequest request = Request({10});
  request.set_text(std::string(2 << 20, 'a'));
  EXPECT_EQ(Generate(request).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GrpcServerTest, ManyStreamsThatComeAndGoLeaveNothingBehind) {
  StartServer();
  std::vector<std::thread> clients;
  for (int c = 0; c < 4; ++c) {
    const v1::GenerateRequest request = Request({10, 11, 12, 13, 14, 15, 16, 1});
    clients.emplace_back([this, request, c] {
      for (int i = 0; i < 30; ++i) {
        grpc::ClientContext context;
        auto reader = stub_->GenerateStream(&context, request);
        Event event;
        for (int reads = 0; reader->Read(&event); ++reads) {
          if (c % 2 == 1 && reads == i % 5) context.TryCancel();
        }
        const grpc::Status status = reader->Finish();
        EXPECT_TRUE(status.ok() || c % 2 == 1) << status.error_message();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  Eventually([&] { return Idle(); });
}

// ---- drafts ----

RigConfig DraftingRig() {
  RigConfig rig;
  rig.scheduler.max_draft_tokens = 3;
  return rig;
}

uint32_t Sum(const google::protobuf::RepeatedField<uint32_t>& values) {
  return std::accumulate(values.begin(), values.end(), 0u);
}

TEST_F(GrpcServerTest, WhatWasDraftedIsToldByDeltasStatisticsTrailersAndTheServer) {
  // Given guesses of which every third is wrong.
  StartServer({}, DraftingRig());
  rig_->device().SetGuess([](int i) { return i % 3 != 0; });
  v1::GenerateRequest request = Request({10, 11, 12, 13, 14, 15, 16, 17, 18, 1});
  request.mutable_output()->set_speculative_stats(true);
  // When an answer is streamed.
  grpc::ClientContext context;
  grpc::Status status;
  const std::vector<Event> events = Stream(request, &status, &context);
  ASSERT_TRUE(status.ok()) << status.error_message();
  // Then what its deltas say sums up to what the choice, the end and the trailers say.
  uint32_t tokens = 0, steps = 0, drafted = 0, accepted = 0;
  v1::SpeculativeStats choice, all;
  for (const Event& event : events) {
    tokens += event.delta().token_ids_size();
    steps += event.delta().steps();
    drafted += event.delta().drafted_tokens();
    accepted += event.delta().accepted_tokens();
    if (event.has_choice_finished()) choice = event.choice_finished().speculative();
    if (event.has_completed()) all = event.completed().speculative();
  }
  EXPECT_EQ(tokens, 10u);
  EXPECT_GT(accepted, 0u);
  EXPECT_LT(accepted, drafted);
  for (const v1::SpeculativeStats& stats : {choice, all}) {
    EXPECT_TRUE(stats.enabled());
    EXPECT_EQ(stats.max_draft_tokens(), 3u);
    EXPECT_EQ(stats.steps(), steps);
    EXPECT_EQ(stats.drafted_tokens(), drafted);
    EXPECT_EQ(stats.accepted_tokens(), accepted);
    EXPECT_EQ(Sum(stats.drafted_per_position()), drafted);
    EXPECT_EQ(Sum(stats.accepted_per_position()), accepted);
  }
  EXPECT_EQ(Find(context.GetServerTrailingMetadata(), "x-tandem-drafted-tokens"),
            std::to_string(drafted));
  EXPECT_EQ(Find(context.GetServerTrailingMetadata(), "x-tandem-accepted-tokens"),
            std::to_string(accepted));
  // And the server counts the same.
  grpc::ClientContext stats_context;
  v1::EngineStats stats;
  ASSERT_TRUE(stub_->GetStats(&stats_context, {}, &stats).ok());
  EXPECT_DOUBLE_EQ(stats.spec_acceptance_rate(), double{1} * accepted / drafted);
  EXPECT_DOUBLE_EQ(stats.spec_mean_accepted_length(),
                   1.0 + double{1} * accepted / all.steps_with_draft());
  ASSERT_EQ(stats.spec_drafted_per_position_size(), 3);
  EXPECT_EQ(stats.spec_drafted_per_position(0), all.drafted_per_position(0));
  EXPECT_EQ(stats.spec_accepted_per_position(0), all.accepted_per_position(0));
}

TEST_F(GrpcServerTest, ARequestChoosesHowFarToGuessByFieldOrMetadata) {
  StartServer({}, DraftingRig());
  const auto run = [&](v1::GenerateRequest request, const char* header) {
    request.mutable_output()->set_speculative_stats(true);
    grpc::ClientContext context;
    if (header != nullptr) context.AddMetadata("x-tandem-spec", header);
    v1::GenerateResponse response;
    const grpc::Status status = stub_->Generate(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_THAT(response.choices(0).token_ids(), ElementsAre(10, 11, 12, 13, 14, 1));
    return response.speculative();
  };
  const std::vector<int32_t> script = {10, 11, 12, 13, 14, 1};
  EXPECT_EQ(run(Request(script), nullptr).drafted_per_position_size(), 3);
  EXPECT_EQ(run(Request(script), "fixed:1").drafted_per_position_size(), 1);
  const v1::SpeculativeStats off = run(Request(script), "off");
  EXPECT_FALSE(off.enabled());
  EXPECT_EQ(off.drafted_tokens(), 0u);
  EXPECT_EQ(off.steps(), 5u);
  v1::GenerateRequest two = Request(script);
  two.mutable_speculative()->set_max_draft_tokens(2);
  EXPECT_EQ(run(two, "fixed:1").drafted_per_position_size(), 2);
  v1::GenerateRequest many = Request(script);
  many.mutable_speculative()->set_max_draft_tokens(16);
  many.mutable_speculative()->set_require(true);
  EXPECT_EQ(run(many, nullptr).max_draft_tokens(), 3u);
}

TEST_F(GrpcServerTest, AMetadataValueThatMeansNothingIsRefusedByItsKey) {
  StartServer({}, DraftingRig());
  grpc::ClientContext context;
  context.AddMetadata("x-tandem-spec", "fast");
  v1::GenerateResponse response;
  const grpc::Status status = stub_->Generate(&context, Request({10, 1}), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailsOf(status).bad.field_violations(0).field(), "metadata x-tandem-spec");
}

TEST_F(GrpcServerTest, TheDrafterIsDescribedWithItsModel) {
  StartServer({}, DraftingRig());
  grpc::ClientContext context;
  v1::ModelInfo info;
  ASSERT_TRUE(stub_->GetModel(&context, {}, &info).ok());
  EXPECT_TRUE(info.drafter().loaded());
  EXPECT_EQ(info.drafter().name(), "demo/assistant");
  EXPECT_EQ(info.drafter().layers(), 4u);
  EXPECT_EQ(info.drafter().max_draft_tokens(), 3u);
  EXPECT_EQ(info.drafter().weight_format(), "bf16");
}

}  // namespace
}  // namespace tandem::server
