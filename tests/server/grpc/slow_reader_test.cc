// Clients that do not read as fast as the model writes.

#include <chrono>
#include <memory>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/grpc/server_fixture.h"

namespace tandem::server {
namespace {

class SlowReaderTest : public GrpcServerTest {
 protected:
  // Opens an endless stream that nobody reads, and waits until its request is paused.
  void Stall(GrpcConfig config, int time_limit_ms = 0) {
    StartServer(config, {.max_context = 60'000});
    slow_ = StallingStub();
    v1::GenerateRequest request = EndlessRequest();
    request.set_request_id("slow");
    request.mutable_stopping()->set_time_limit_ms(time_limit_ms);
    request.mutable_output()->set_logprobs(0);
    reader_ = slow_->GenerateStream(&context_, request);
  }
  // It is paused and resumed for as long as the connection takes more.
  void WaitPaused() {
    Eventually([&] {
      const int64_t before = rig_->scheduler().stats().generated_tokens_total;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      const scheduler::SchedulerStats stats = rig_->scheduler().stats();
      return stats.paused == 1 && stats.generated_tokens_total == before;
    });
  }
  // Reads to the end.
  grpc::Status Finish() {
    Event event;
    while (reader_->Read(&event)) {
      EXPECT_EQ(event.seq(), seq_++);
      if (event.has_delta()) {
        EXPECT_EQ(event.delta().position(), tokens_);
        tokens_ += event.delta().token_ids_size();
      }
    }
    return reader_->Finish();
  }

  std::unique_ptr<v1::Generation::Stub> slow_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<Event>> reader_;
  uint64_t seq_ = 0;
  uint64_t tokens_ = 0;
};

TEST_F(SlowReaderTest, ARequestWhoseReaderLagsWaitsForItAndGoesOn) {
  // Given a request that stays paused: what it has made is far from all.
  Stall({.stream_buffer_tokens = 64});
  WaitPaused();
  Eventually([&] { return StatusOf("slow").state() == v1::RequestStatus::PAUSED; });
  Eventually([&] {
    grpc::ClientContext context;
    v1::EngineStats stats;
    return stub_->GetStats(&context, {}, &stats).ok() && stats.paused() == 1;
  });
  // When others run, which it does not hold up, and then the client reads.
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Generate(Request({10, 11, 1})).ok());
  EXPECT_LT(rig_->scheduler().stats().generated_tokens_total, 30'000);
  // Then it gets everything up to the end of the context.
  const grpc::Status status = Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_GT(tokens_, 59'000u);
  Eventually([&] { return rig_->scheduler().stats().paused == 0; });
}

TEST_F(SlowReaderTest, OnePausedForTooLongIsGivenUp) {
  Stall({.stream_buffer_tokens = 64, .slow_consumer_timeout_s = 1});
  // The request ends although its client does nothing, and its id is free.
  Eventually([&] { return rig_->scheduler().stats().generated_tokens_total > 0 && Idle(); });
  v1::GenerateRequest same = Request({10, 1});
  same.set_request_id("slow");
  EXPECT_TRUE(Generate(same).ok());
  // What waited is dropped, and the status says why.
  const grpc::Status status = Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(Reason(status), "SLOW_CONSUMER");
  EXPECT_LT(tokens_, static_cast<uint64_t>(rig_->scheduler().stats().generated_tokens_total));
  EXPECT_TRUE(Exports("cause=\"slow\"} 1"));
}

TEST_F(SlowReaderTest, WithoutPatienceALaggingStreamEndsAtOnce) {
  Stall(
      {.stream_buffer_tokens = 64, .slow_consumer_timeout_s = 3600, .pause_slow_consumers = false});
  Eventually([&] { return rig_->scheduler().stats().generated_tokens_total > 0 && Idle(); });
  const grpc::Status status = Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(Reason(status), "SLOW_CONSUMER");
}

TEST_F(SlowReaderTest, WhatEndsWhilePausedIsNotCutShortInSilence) {
  // Given a request that ends well while it is paused, and a client that still does not read.
  Stall({.stream_buffer_tokens = 64, .slow_consumer_timeout_s = 1}, /*time_limit_ms=*/300);
  Eventually([&] { return rig_->scheduler().stats().generated_tokens_total > 0 && Idle(); });
  // When the patience is over, and then the client reads.
  v1::GenerateRequest same = Request({10, 1});
  same.set_request_id("slow");
  Eventually([&] { return Generate(same).ok(); });
  // Then it learns that something is missing.
  const grpc::Status status = Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(Reason(status), "SLOW_CONSUMER");
}

TEST_F(SlowReaderTest, OneThatLeavesWhilePausedFreesEverything) {
  Stall({.stream_buffer_tokens = 64});
  WaitPaused();
  context_.TryCancel();
  EXPECT_EQ(Finish().error_code(), grpc::StatusCode::CANCELLED);
  Eventually([&] { return Idle() && rig_->scheduler().stats().paused == 0; });
}

TEST_F(SlowReaderTest, ADrainDoesNotWaitForOneThatWasGivenUp) {
  Stall({.stream_buffer_tokens = 64, .slow_consumer_timeout_s = 0});
  Eventually([&] { return rig_->scheduler().stats().generated_tokens_total > 0 && Idle(); });
  // An hour's drain is over as soon as gRPC has cut the connection.
  server_->Shutdown(3'600'000);
  EXPECT_FALSE(Finish().ok());
}

}  // namespace
}  // namespace tandem::server
