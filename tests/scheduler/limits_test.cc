// Limits: what a configuration may be, how long a sequence can get, which requests are refused,
// when a choice stops, and that reasons travel inside a status.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "scheduler/config.h"
#include "scheduler/end_status.h"
#include "scheduler/status_reason.h"
#include "scheduler/stop_rules.h"

namespace tandem::scheduler {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

ModelLimits TestLimits() {
  return {.vocab_size = 100,
          .max_context = 1000,
          .window = 64,
          .block_tokens = 32,
          .num_blocks = {40, 20}};
}

Request TestRequest(int prompt_tokens) {
  Request request;
  request.prompt.assign(prompt_tokens, 5);
  request.stop.max_tokens = 10;
  return request;
}

TEST(ConfigTest, DefaultsAreValid) { EXPECT_TRUE(Validate(SchedulerConfig{}, TestLimits()).ok()); }

TEST(ConfigTest, NamesTheFieldTheValueAndTheBound) {
  SchedulerConfig config;
  config.max_slots = 0;
  EXPECT_THAT(Validate(config, TestLimits()).message(), HasSubstr("max_slots is 0"));
  config = {};
  config.max_step_rows = 20;  // 16 decode rows would leave no chunk of 8
  EXPECT_THAT(Validate(config, TestLimits()).message(), HasSubstr("max_step_rows is 20"));
  EXPECT_THAT(Validate(config, TestLimits()).message(), HasSubstr("24.."));
  for (const auto& [name, set] : std::vector<std::pair<const char*, void (*)(SchedulerConfig&)>>{
           {"max_queued_tokens", [](SchedulerConfig& c) { c.max_queued_tokens = -1; }},
           {"max_queued_bytes", [](SchedulerConfig& c) { c.max_queued_bytes = -1; }},
           {"max_queued_per_tenant", [](SchedulerConfig& c) { c.max_queued_per_tenant = -1; }},
           {"tenant_turn_us", [](SchedulerConfig& c) { c.tenant_turn_us = -1; }},
           {"max_draft_tokens", [](SchedulerConfig& c) { c.max_draft_tokens = -1; }},
       }) {
    config = {};
    set(config);
    EXPECT_THAT(Validate(config, TestLimits()).message(), HasSubstr(absl::StrCat(name, " is -1")));
  }
  config = {.max_draft_tokens = kMaxDraftTokens + 1};
  EXPECT_THAT(Validate(config, TestLimits()).message(), HasSubstr("0..16"));
  ModelLimits limits = TestLimits();
  limits.num_blocks = {0, 0};
  EXPECT_THAT(Validate({}, limits).message(), HasSubstr("sliding and full blocks"));
  limits = TestLimits();
  limits.window = 0;
  EXPECT_THAT(Validate({}, limits).message(), HasSubstr("window is 0"));
  limits.num_blocks[engine::kSliding] = 0;  // then there is no window to speak of
  EXPECT_TRUE(Validate({}, limits).ok());
}

TEST(ConfigTest, ASlidingSequenceHoldsTheBlocksThatItsWindowAndOneRowOverlap) {
  // Given a window of 64 in blocks of 32: 65 positions overlap at most 3 blocks.
  ModelLimits limits = TestLimits();
  EXPECT_EQ(SlidingBlocksHeld(limits), 3);
  limits.window = 65;  // 66 positions: 1 + 32 + 32 + 1
  EXPECT_EQ(SlidingBlocksHeld(limits), 4);
  limits.window = 1;
  EXPECT_EQ(SlidingBlocksHeld(limits), 2);
}

TEST(ConfigTest, ASequenceEndsAtTheContextOrAtTheEndOfTheEmptyPool) {
  ModelLimits limits = TestLimits();
  EXPECT_EQ(MaxSequenceTokens(limits), 20 * 32);  // full blocks
  limits.num_blocks[engine::kFull] = 100;
  EXPECT_EQ(MaxSequenceTokens(limits), 1000);  // context
  limits.num_blocks[engine::kSliding] = 3;
  EXPECT_EQ(MaxSequenceTokens(limits), 1000);  // just enough to slide
  limits.num_blocks[engine::kSliding] = 2;
  EXPECT_EQ(MaxSequenceTokens(limits), 64);  // never gets to release a block
  limits.num_blocks = {0, 1};
  EXPECT_EQ(MaxSequenceTokens(limits), 32);
}

TEST(CheckRequestTest, AcceptsThePromptThatLeavesRoomForOneToken) {
  EXPECT_TRUE(CheckRequest(TestRequest(639), TestLimits()).ok());
  EXPECT_TRUE(CheckRequest(TestRequest(1), TestLimits()).ok());
}

TEST(CheckRequestTest, APromptBeyondTheContextIsTooLong) {
  const absl::Status status = CheckRequest(TestRequest(1000), TestLimits());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetReason(status).reason, "PROMPT_TOO_LONG");
  EXPECT_THAT(GetReason(status).metadata,
              ElementsAre(Pair("max_prompt_tokens", "999"), Pair("prompt_tokens", "1000")));
}

TEST(CheckRequestTest, APromptThatTheEmptyPoolCannotHoldExceedsCapacity) {
  const absl::Status status = CheckRequest(TestRequest(640), TestLimits());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetReason(status).reason, "EXCEEDS_KV_CAPACITY");
  EXPECT_THAT(GetReason(status).metadata,
              ElementsAre(Pair("needed_blocks", "21"), Pair("total_blocks", "20")));
}

TEST(CheckRequestTest, NamesWhatIsWrongWithIdsAndCounts) {
  EXPECT_EQ(GetReason(CheckRequest(TestRequest(0), TestLimits())).reason, "EMPTY_PROMPT");
  Request request = TestRequest(3);
  request.prompt[1] = 100;
  EXPECT_EQ(GetReason(CheckRequest(request, TestLimits())).reason, "BAD_TOKEN_ID");
  EXPECT_THAT(CheckRequest(request, TestLimits()).message(), HasSubstr("token 1 is id 100"));
  request.prompt[1] = -1;
  EXPECT_EQ(GetReason(CheckRequest(request, TestLimits())).reason, "BAD_TOKEN_ID");
  for (const int n : {0, -1, 1 << 30}) {
    request = TestRequest(3);
    request.n = n;
    EXPECT_EQ(GetReason(CheckRequest(request, TestLimits())).reason, "BAD_PARAMETER");
    EXPECT_EQ(GetReason(CheckRequest(request, TestLimits())).field, "sampling.n");
  }
  request = TestRequest(3);
  request.stop.max_tokens = -1;
  EXPECT_EQ(GetReason(CheckRequest(request, TestLimits())).field, "stopping.max_tokens");
}

TEST(StopRulesTest, TheClientsStopGoesBeforeEndOfSequenceBeforeTheLimits) {
  const StopParams stop = {.max_tokens = 3, .eos_ids = {1, 9}, .stop_ids = {9}};
  EXPECT_EQ(StopReason(stop, 9, 3, 50, 50), FinishReason::kStopToken);
  EXPECT_EQ(StopReason(stop, 1, 3, 50, 50), FinishReason::kStopEos);
  EXPECT_EQ(StopReason(stop, 2, 3, 50, 50), FinishReason::kMaxTokens);
  EXPECT_EQ(StopReason(stop, 2, 2, 50, 50), FinishReason::kContextLength);
  EXPECT_EQ(StopReason(stop, 2, 2, 49, 50), std::nullopt);
}

TEST(StopRulesTest, ARunIsSentUpToItsFirstStop) {
  // Given a run of four tokens behind two of the output, in a sequence of 20.
  const std::vector<engine::SampledToken> run = {{.id = 5}, {.id = 6}, {.id = 1}, {.id = 9}};
  using Sent = std::pair<int, std::optional<FinishReason>>;
  const auto scan = [&](const StopParams& stop, int max_known) {
    const SentRun sent = ScanRun(stop, run, 2, 20, max_known);
    return Sent(sent.tokens, sent.reason);
  };
  EXPECT_EQ(scan({.max_tokens = 50}, 100), Sent(4, std::nullopt));
  EXPECT_EQ(scan({.max_tokens = 50, .eos_ids = {1}}, 100), Sent(3, FinishReason::kStopEos));
  EXPECT_EQ(scan({.max_tokens = 50, .stop_ids = {9}}, 100), Sent(4, FinishReason::kStopToken));
  EXPECT_EQ(scan({.max_tokens = 50, .stop_ids = {5, 9}}, 100), Sent(1, FinishReason::kStopToken));
  EXPECT_EQ(scan({.max_tokens = 4, .eos_ids = {1}}, 100), Sent(2, FinishReason::kMaxTokens));
  EXPECT_EQ(scan({.max_tokens = 5, .eos_ids = {1}}, 100), Sent(3, FinishReason::kStopEos));
  EXPECT_EQ(scan({.max_tokens = 50}, 22), Sent(2, FinishReason::kContextLength));
  EXPECT_EQ(ScanRun({.max_tokens = 50}, {}, 2, 20, 100).tokens, 0);
}

TEST(StopRulesTest, StopsAreMaskedUntilMinTokensAreThere) {
  const StopParams stop = {.max_tokens = 10, .min_tokens = 2};
  EXPECT_TRUE(StopsMasked(stop, 0));
  EXPECT_TRUE(StopsMasked(stop, 1));
  EXPECT_FALSE(StopsMasked(stop, 2));
}

TEST(StatusReasonTest, TravelsInsideAStatusWithWhateverBytesItHolds) {
  const StatusReason reason = {
      .reason = "QUEUE_FULL",
      .metadata = {{"a", "1:2"}, {"", std::string("\0x", 2)}, {"long", std::string(1000, 'y')}},
      .field = "sampling.n"};
  const absl::Status status = WithReason(absl::ResourceExhaustedError("full"), reason);
  EXPECT_EQ(status.message(), "full");
  EXPECT_EQ(GetReason(status).reason, reason.reason);
  EXPECT_EQ(GetReason(status).field, reason.field);
  EXPECT_EQ(GetReason(status).metadata, reason.metadata);
}

TEST(StatusReasonTest, IsEmptyWithoutOneAndOkStaysOk) {
  EXPECT_EQ(GetReason(absl::InternalError("x")).reason, "");
  EXPECT_EQ(GetReason(WithReason(absl::OkStatus(), {.reason = "X"})).reason, "");
  EXPECT_TRUE(WithReason(absl::OkStatus(), {.reason = "X"}).ok());
}

}  // namespace
}  // namespace tandem::scheduler
