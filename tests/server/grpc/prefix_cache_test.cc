// What calls tell of the prefix cache, and how operators flush it.

#include <memory>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "tandem/v1/admin.pb.h"
#include "tests/server/grpc/server_fixture.h"

namespace tandem::server {
namespace {

constexpr int kBlockTokens = 16;  // of the rig

class PrefixCacheTest : public GrpcServerTest {
 protected:
  void StartForOperators(RigConfig rig = {}) {
    GrpcConfig config;
    config.admin = true;
    StartServer(config, rig);
  }
  // A request whose prompt fills four blocks and one token of a fifth.
  v1::GenerateRequest LongRequest() {
    v1::GenerateRequest request = Request({10, 11, 1});
    for (int i = 0; i < 4 * kBlockTokens + 1; ++i) request.mutable_token_ids()->add_ids(5);
    return request;
  }
  v1::EngineStats Stats() {
    grpc::ClientContext context;
    v1::EngineStats stats;
    EXPECT_TRUE(stub_->GetStats(&context, {}, &stats).ok());
    return stats;
  }
  //   timeout_ms  of the wait for the engine to be idle; negative: no wait
  grpc::Status Flush(int timeout_ms, uint64_t* freed = nullptr) {
    v1::FlushPrefixCacheRequest request;
    request.set_wait_idle(timeout_ms >= 0);
    if (timeout_ms > 0) request.set_timeout_ms(static_cast<uint32_t>(timeout_ms));
    std::string bytes;
    const grpc::Status status =
        CallRaw("/tandem.v1.Admin/FlushPrefixCache", request.SerializeAsString(), &bytes);
    v1::FlushPrefixCacheResponse response;
    EXPECT_TRUE(response.ParseFromString(bytes));
    if (freed != nullptr) *freed = response.freed_blocks();
    return status;
  }
};

TEST_F(PrefixCacheTest, AStreamTellsWhatItFoundWhenItBeginsAndWhenItEnds) {
  // Given a prompt that was computed before.
  StartServer();
  ASSERT_TRUE(Generate(LongRequest()).ok());
  // When it comes again.
  grpc::ClientContext context;
  grpc::Status status;
  const std::vector<Event> events = Stream(LongRequest(), &status, &context);
  ASSERT_TRUE(status.ok()) << status.error_message();
  // Then its full blocks were there.
  EXPECT_EQ(events.front().accepted().cached_prompt_tokens(), 4u * kBlockTokens);
  EXPECT_EQ(events.back().completed().usage().cached_prompt_tokens(), 4u * kBlockTokens);
  EXPECT_EQ(Find(context.GetServerTrailingMetadata(), "x-tandem-cached-tokens"), "64");
}

TEST_F(PrefixCacheTest, AClientMayShareWithNobody) {
  StartServer();
  ASSERT_TRUE(Generate(LongRequest()).ok());
  for (const bool by_salt : {false, true}) {
    v1::GenerateRequest request = LongRequest();
    request.mutable_cache()->set_no_read(!by_salt);
    if (by_salt) request.mutable_cache()->set_salt("mine");
    v1::GenerateResponse response;
    ASSERT_TRUE(Generate(request, &response).ok());
    EXPECT_EQ(response.usage().cached_prompt_tokens(), 0u);
  }
}

TEST_F(PrefixCacheTest, CachedBlocksAreNotUsed) {
  StartServer();
  ASSERT_TRUE(Generate(LongRequest()).ok());
  ASSERT_TRUE(Generate(LongRequest()).ok());
  Eventually([&] { return Idle(); });
  const v1::EngineStats stats = Stats();
  EXPECT_EQ(stats.kv_blocks_used(), 0u);
  EXPECT_EQ(stats.kv_usage(), 0.0);
  EXPECT_EQ(stats.kv_blocks_cached(), 4u);
  ASSERT_EQ(stats.kv_groups_size(), 1);
  EXPECT_EQ(stats.kv_groups(0).cached(), 4u);
  EXPECT_DOUBLE_EQ(stats.prefix_hit_rate(), 64.0 / 130.0);  // of two prompts of 65 tokens
}

TEST_F(PrefixCacheTest, FlushingIsForOperators) {
  StartServer();
  const grpc::Status status = Flush(-1);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Reason(status), "AUTH");
}

TEST_F(PrefixCacheTest, AFlushNeedsAModelAndAMessage) {
  GrpcConfig config;
  config.admin = true;
  StartServer(config, {}, /*loaded=*/false);
  EXPECT_EQ(Reason(Flush(-1)), "MODEL_LOADING");
  EXPECT_EQ(CallRaw("/tandem.v1.Admin/FlushPrefixCache", "\x1f").error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(PrefixCacheTest, AFlushForgetsWhatNobodyUsesAndTellsHowMuch) {
  StartForOperators();
  ASSERT_TRUE(Generate(LongRequest()).ok());
  Eventually([&] { return Idle(); });
  uint64_t freed = 0;
  EXPECT_TRUE(Flush(-1, &freed).ok());
  EXPECT_EQ(freed, 4u);
  EXPECT_EQ(Stats().kv_blocks_cached(), 0u);
  EXPECT_TRUE(Flush(-1, &freed).ok());
  EXPECT_EQ(freed, 0u);
  v1::GenerateResponse response;
  ASSERT_TRUE(Generate(LongRequest(), &response).ok());
  EXPECT_EQ(response.usage().cached_prompt_tokens(), 0u);
}

TEST_F(PrefixCacheTest, AFlushThatWaitsComesWhenTheLastRequestHasEnded) {
  // Given a request that is held up after its first token.
  StartForOperators();
  hold_at_ = 1;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, LongRequest());
  Event event;
  while (reader->Read(&event) && !event.has_delta()) {
  }
  // When one flush gives up, and another one does not.
  const grpc::Status gave_up = Flush(20);
  EXPECT_EQ(gave_up.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(Reason(gave_up), "DEADLINE");
  grpc::Status waited;
  uint64_t freed = 0;
  std::thread flusher([&] { waited = Flush(0, &freed); });
  release_.Set();
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  // Then that one finds everything unused.
  flusher.join();
  EXPECT_TRUE(waited.ok()) << waited.error_message();
  EXPECT_EQ(freed, 4u);
}

TEST_F(PrefixCacheTest, ADrainEndsAFlushThatWaits) {
  StartForOperators({.max_context = 60'000});
  step_us_ = 100;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, EndlessRequest());
  Event event;
  while (reader->Read(&event) && !event.has_delta()) {
  }
  grpc::Status flushed;
  std::thread flusher([&] { flushed = Flush(0); });
  std::thread drainer([&] { server_->Shutdown(/*drain_ms=*/60'000); });
  flusher.join();
  EXPECT_EQ(flushed.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Reason(flushed), "DRAINING");
  context.TryCancel();
  reader->Finish();
  drainer.join();
}

TEST_F(PrefixCacheTest, AFlushEndsWhenItsClientLeaves) {
  StartForOperators({.max_context = 60'000});
  step_us_ = 100;
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, EndlessRequest());
  Event event;
  while (reader->Read(&event) && !event.has_delta()) {
  }
  grpc::GenericStub stub(channel_);
  v1::FlushPrefixCacheRequest request;
  request.set_wait_idle(true);
  const grpc::Slice slice(request.SerializeAsString());
  const grpc::ByteBuffer bytes(&slice, 1);
  // A client may leave before its call is even there, so several do.
  Eventually([&] {
    grpc::ClientContext leaving;
    leaving.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
    grpc::ByteBuffer answer;
    Signal done;
    stub.UnaryCall(&leaving, "/tandem.v1.Admin/FlushPrefixCache", {}, &bytes, &answer,
                   [&](grpc::Status) { done.Set(); });
    done.Wait();
    return Exports("code=\"CANCELLED\",method=\"FlushPrefixCache\"}");
  });
  context.TryCancel();
  reader->Finish();
}

}  // namespace
}  // namespace tandem::server
