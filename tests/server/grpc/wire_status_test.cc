#include "server/grpc/wire_status.h"

#include <map>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/end_status.h"
#include "scheduler/status_reason.h"
#include "server/grpc/request_errors.h"
#include "tandem/rpc/error_details.pb.h"

namespace tandem::server {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;
namespace rpc = google::rpc;

rpc::Status Details(const WireStatus& wire) {
  rpc::Status status;
  EXPECT_TRUE(status.ParseFromString(wire.details));
  EXPECT_EQ(status.code(), wire.code);
  EXPECT_EQ(status.message(), wire.message);
  return status;
}

template <class Detail>
Detail Get(const rpc::Status& status) {
  Detail detail;
  for (const auto& any : status.details()) {
    if (any.UnpackTo(&detail)) return detail;
  }
  ADD_FAILURE() << "no " << Detail::descriptor()->full_name();
  return detail;
}

std::vector<std::string> Types(const rpc::Status& status) {
  std::vector<std::string> types;
  for (const auto& any : status.details()) types.push_back(any.type_url());
  return types;
}

scheduler::Request PromptOf(int tokens) {
  scheduler::Request request;
  request.prompt.resize(tokens);
  return request;
}

constexpr char kErrorInfo[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kBadRequest[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kRetryInfo[] = "type.googleapis.com/google.rpc.RetryInfo";
constexpr char kQuotaFailure[] = "type.googleapis.com/google.rpc.QuotaFailure";
constexpr char kResourceInfo[] = "type.googleapis.com/google.rpc.ResourceInfo";
constexpr char kRequestInfo[] = "type.googleapis.com/google.rpc.RequestInfo";
constexpr char kPreconditionFailure[] = "type.googleapis.com/google.rpc.PreconditionFailure";

TEST(WireStatusTest, OkCarriesNothing) {
  const WireStatus wire = ToWireStatus(absl::OkStatus(), 1.0);
  EXPECT_EQ(wire.code, 0);
  EXPECT_EQ(wire.details, "");
}

struct Row {
  absl::Status status;
  int code;
  std::string reason;
  std::vector<std::string> further;  // type URLs beside ErrorInfo
};

// The rows of the table in grpc-surface 1.8 that can occur.
TEST(WireStatusTest, EveryRowHasItsCodeReasonAndDetails) {
  using scheduler::CancelCause;
  const std::vector<Row> rows = {
      {BadParameter("sampling.n", "is 0"), 3, "BAD_PARAMETER", {kBadRequest}},
      {BadField("prompt", "EMPTY_PROMPT", "is empty"), 3, "EMPTY_PROMPT", {kBadRequest}},
      {BadField("token_ids.ids[0]", "BAD_TOKEN_ID", "is 9"), 3, "BAD_TOKEN_ID", {kBadRequest}},
      {scheduler::CheckRequest(PromptOf(9),
                               {.vocab_size = 4, .max_context = 8, .num_blocks = {0, 9}}),
       3,
       "PROMPT_TOO_LONG",
       {}},
      {scheduler::CheckRequest(PromptOf(64),
                               {.vocab_size = 4, .max_context = 99, .num_blocks = {0, 1}}),
       3,
       "EXCEEDS_KV_CAPACITY",
       {}},
      {ModelNotFound("x", "demo"), 5, "MODEL_NOT_FOUND", {kResourceInfo}},
      {Unsupported("guided"), 12, "FEATURE_UNSUPPORTED", {}},
      {DrafterUnavailable(), 9, "DRAFTER_UNAVAILABLE", {kPreconditionFailure}},
      {DuplicateRequestId("r"), 6, "DUPLICATE_REQUEST_ID", {kRequestInfo}},
      {scheduler::QueueFullStatus(5, 4), 8, "QUEUE_FULL", {kQuotaFailure, kRetryInfo}},
      {scheduler::KvExhaustedStatus(64), 8, "KV_EXHAUSTED", {kRetryInfo}},
      {scheduler::DeadlineStatus(5000), 4, "DEADLINE", {}},
      {scheduler::QueueTimeoutStatus(5000), 4, "QUEUE_TIMEOUT", {}},
      {scheduler::CancelStatus(CancelCause::kClientGone, 1), 1, "CLIENT_CANCELLED", {}},
      {scheduler::CancelStatus(CancelCause::kAborted, 0), 1, "ABORTED_BY_REQUEST", {}},
      {scheduler::CancelStatus(CancelCause::kSlowConsumer, 1), 10, "SLOW_CONSUMER", {}},
      {scheduler::CancelStatus(CancelCause::kDrain, 7), 14, "SHUTTING_DOWN", {}},
      {ModelLoading(), 14, "MODEL_LOADING", {kRetryInfo}},
      {Draining(), 14, "DRAINING", {kRetryInfo}},
      {scheduler::DrainingStatus(), 14, "DRAINING", {kRetryInfo}},
      {scheduler::NumericFailureStatus(3, 4), 13, "NUMERIC_FAILURE", {}},
      {scheduler::EngineFailureStatus(), 13, "ENGINE_FAILURE", {}},
      {scheduler::EngineDownStatus(), 14, "ENGINE_DOWN", {}},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.reason);
    const WireStatus wire = ToWireStatus(row.status, 1.0);
    EXPECT_EQ(wire.code, row.code);
    EXPECT_EQ(wire.reason, row.reason);
    const rpc::Status details = Details(wire);
    const auto info = Get<rpc::ErrorInfo>(details);
    EXPECT_EQ(info.reason(), row.reason);
    EXPECT_EQ(info.domain(), "tandem");
    std::vector<std::string> types = {kErrorInfo};
    types.insert(types.end(), row.further.begin(), row.further.end());
    EXPECT_EQ(Types(details), types);
  }
}

TEST(WireStatusTest, MetadataOfTheReasonReachesTheClient) {
  const auto status = ToWireStatus(scheduler::CancelStatus(scheduler::CancelCause::kDrain, 7), 1);
  const auto info = Get<rpc::ErrorInfo>(Details(status));
  EXPECT_EQ(info.metadata().at("completion_tokens"), "7");
}

TEST(WireStatusTest, ABadFieldIsNamed) {
  const auto bad =
      Get<rpc::BadRequest>(Details(ToWireStatus(BadParameter("sampling.n", "is 0"), 1)));
  ASSERT_EQ(bad.field_violations_size(), 1);
  EXPECT_EQ(bad.field_violations(0).field(), "sampling.n");
  EXPECT_EQ(bad.field_violations(0).description(), "sampling.n is 0");
}

TEST(WireStatusTest, AFullQueueSaysWhenToComeBackAndADrainSaysNow) {
  const auto full =
      Get<rpc::RetryInfo>(Details(ToWireStatus(scheduler::QueueFullStatus(5, 4), 2.25)));
  EXPECT_EQ(full.retry_delay().seconds(), 2);
  EXPECT_EQ(full.retry_delay().nanos(), 250'000'000);
  const auto drain = Get<rpc::RetryInfo>(Details(ToWireStatus(Draining(), 2.25)));
  EXPECT_EQ(drain.retry_delay().seconds(), 0);
  EXPECT_EQ(drain.retry_delay().nanos(), 0);
}

TEST(WireStatusTest, MessagesAreShortPrintableAscii) {
  const WireStatus wire =
      ToWireStatus(absl::InvalidArgumentError("a\nb\xC3\xA9" + std::string(1000, 'x')), 1.0);
  EXPECT_EQ(wire.message.size(), 512u);
  EXPECT_THAT(wire.message, ::testing::StartsWith("a?b??x"));
}

TEST(WireStatusTest, AnErrorWithoutAReasonStillHasOneAndIsNeverUnknown) {
  const WireStatus wire = ToWireStatus(absl::UnknownError("?"), 1.0);
  EXPECT_EQ(wire.code, 13);
  EXPECT_EQ(wire.reason, "INTERNAL");
}

TEST(WireStatusTest, WhatAClientSentIsQuotedShortAndPrintable) {
  EXPECT_EQ(Printable("a\x01\xFF"), "\"a??\"");
  EXPECT_EQ(Printable(std::string(100, 'x')), '"' + std::string(64, 'x') + "...\"");
}

}  // namespace
}  // namespace tandem::server
