#include "server/grpc/request_parser.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/status_reason.h"

namespace tandem::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using Proto = v1::GenerateRequest;

ServedModel DemoModel() {
  ServedModel model;
  model.name = "demo";
  model.aliases = {"default"};
  model.revision = "r1";
  model.context_length = 1000;
  model.vocab_size = 500;
  model.default_sampling = {.temperature = 0.75f, .top_k = 64, .top_p = 0.95f};
  model.eos_ids = {1, 106};
  model.bos_id = 2;
  return model;
}

Proto TextRequest() {
  Proto proto;
  proto.set_text("hello");
  return proto;
}

CallFacts Call() {
  return {.generated_id = "generated", .random_seed = 4711, .arrival_us = 1'000'000};
}

ServedModel DraftingModel() {
  ServedModel model = DemoModel();
  model.drafter = ServedDrafter{.name = "demo-assistant", .layers = 4, .max_draft_tokens = 3};
  return model;
}

absl::StatusOr<ParsedRequest> Parse(const Proto& proto, const CallFacts& call = Call()) {
  return ParseGenerateRequest(proto, DemoModel(), {.max_n = 4}, call);
}

GenerationSpec ParsedSpec(const Proto& proto, const CallFacts& call = Call()) {
  absl::StatusOr<ParsedRequest> parsed = Parse(proto, call);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? std::move(parsed->spec) : GenerationSpec{};
}

// ---- what is refused ----

struct BadCase {
  const char* name;
  std::function<void(Proto&)> change;  // of a good request
  const char* field;
  const char* value;  // part of the message, as is the limit
  const char* limit;
  const char* reason = "BAD_PARAMETER";
};

class BadRequestTest : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadRequestTest, NamesFieldValueAndLimit) {
  Proto proto = TextRequest();
  GetParam().change(proto);
  const absl::Status status = Parse(proto).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  const StatusReason reason = GetReason(status);
  EXPECT_EQ(reason.reason, GetParam().reason);
  EXPECT_EQ(reason.field, GetParam().field);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().field));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().value));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().limit));
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<BadCase> BadCases() {
  const auto sampling = [](auto set, auto value) {
    return [=](Proto& p) { (p.mutable_sampling()->*set)(value); };
  };
  using S = v1::SamplingParams;
  std::vector<BadCase> cases = {
      {"TemperatureNan", sampling(&S::set_temperature, kNan), "sampling.temperature", "nan",
       "0 to 10"},
      {"TemperatureInf", sampling(&S::set_temperature, kInf), "sampling.temperature", "inf",
       "0 to 10"},
      {"TemperatureNegative", sampling(&S::set_temperature, -0.5f), "sampling.temperature", "-0.5",
       "0 to 10"},
      {"TemperatureHuge", sampling(&S::set_temperature, 1e30f), "sampling.temperature", "1e+30",
       "0 to 10"},
      {"TopPZero", sampling(&S::set_top_p, 0.0f), "sampling.top_p", "is 0", "at most 1"},
      {"TopPAboveOne", sampling(&S::set_top_p, 1.5f), "sampling.top_p", "1.5", "at most 1"},
      {"TopPNan", sampling(&S::set_top_p, kNan), "sampling.top_p", "nan", "at most 1"},
      {"TopKBelowMinusOne", sampling(&S::set_top_k, -2), "sampling.top_k", "-2", "-1 or 0"},
      {"MinPNegative", sampling(&S::set_min_p, -1.0f), "sampling.min_p", "-1", "0 to 1"},
      {"MinPAboveOne", sampling(&S::set_min_p, 1.5f), "sampling.min_p", "1.5", "0 to 1"},
      {"MinPNan", sampling(&S::set_min_p, kNan), "sampling.min_p", "nan", "0 to 1"},
      {"RepetitionZero", sampling(&S::set_repetition_penalty, 0.0f), "sampling.repetition_penalty",
       "is 0", "at most 10"},
      {"RepetitionInf", sampling(&S::set_repetition_penalty, kInf), "sampling.repetition_penalty",
       "inf", "at most 10"},
      {"FrequencyNan", sampling(&S::set_frequency_penalty, kNan), "sampling.frequency_penalty",
       "nan", "-2 to 2"},
      {"RepetitionHigh", sampling(&S::set_repetition_penalty, 10.5f), "sampling.repetition_penalty",
       "10.5", "at most 10"},
      {"FrequencyHigh", sampling(&S::set_frequency_penalty, 2.5f), "sampling.frequency_penalty",
       "2.5", "-2 to 2"},
      {"PresenceLow", sampling(&S::set_presence_penalty, -3.0f), "sampling.presence_penalty", "-3",
       "-2 to 2"},
      {"FrequencyLow", sampling(&S::set_frequency_penalty, -2.5f), "sampling.frequency_penalty",
       "-2.5", "-2 to 2"},
      {"PresenceHigh", sampling(&S::set_presence_penalty, 3.0f), "sampling.presence_penalty", "3",
       "-2 to 2"},
      {"NZero", sampling(&S::set_n, 0u), "sampling.n", "is 0", "1 to 4"},
      {"NHuge", sampling(&S::set_n, 4'000'000'000u), "sampling.n", "4000000000", "1 to 4"},
      {"BiasNan", [](Proto& p) { (*p.mutable_sampling()->mutable_logit_bias())[3] = kNan; },
       "sampling.logit_bias[3]", "nan", "-100 to 100"},
      {"BiasHigh", [](Proto& p) { (*p.mutable_sampling()->mutable_logit_bias())[3] = 101; },
       "sampling.logit_bias[3]", "101", "-100 to 100"},
      {"BiasLow", [](Proto& p) { (*p.mutable_sampling()->mutable_logit_bias())[3] = -101; },
       "sampling.logit_bias[3]", "-101", "-100 to 100"},
      {"BiasOfNoToken", [](Proto& p) { (*p.mutable_sampling()->mutable_logit_bias())[500] = 1; },
       "sampling.logit_bias", "500", "500 ids", "BAD_TOKEN_ID"},
      {"TooManyBiases",
       [](Proto& p) {
         for (int i = 0; i < 1025; ++i) (*p.mutable_sampling()->mutable_logit_bias())[i] = 1;
       },
       "sampling.logit_bias", "1025", "1024"},
      {"BannedId", [](Proto& p) { p.mutable_sampling()->add_banned_token_ids(4294967295u); },
       "sampling.banned_token_ids[0]", "4294967295", "500 ids", "BAD_TOKEN_ID"},
      {"TooManyAllowed",
       [](Proto& p) {
         for (int i = 0; i < 4097; ++i) p.mutable_sampling()->add_allowed_token_ids(1);
       },
       "sampling.allowed_token_ids", "4097", "4096"},
      {"AllowedAllBanned",
       [](Proto& p) {
         p.mutable_sampling()->add_allowed_token_ids(7);
         p.mutable_sampling()->add_allowed_token_ids(8);
         p.mutable_sampling()->add_banned_token_ids(7);
         (*p.mutable_sampling()->mutable_logit_bias())[8] = -100;
       },
       "sampling.allowed_token_ids", "banned", "leaves nothing"},
      {"MaxTokensAboveContext", [](Proto& p) { p.mutable_stopping()->set_max_tokens(1001); },
       "stopping.max_tokens", "1001", "1000"},
      {"MaxTokensZero", [](Proto& p) { p.mutable_stopping()->set_max_tokens(0); },
       "stopping.max_tokens", "is 0", "at least 1"},
      {"MinTokensAboveMax",
       [](Proto& p) {
         p.mutable_stopping()->set_max_tokens(5);
         p.mutable_stopping()->set_min_tokens(6);
       },
       "stopping.min_tokens", "is 6", "at most 5"},
      {"TooManyStops",
       [](Proto& p) {
         for (int i = 0; i < 17; ++i) p.mutable_stopping()->add_stop("x");
       },
       "stopping.stop", "17", "16"},
      {"EmptyStop", [](Proto& p) { p.mutable_stopping()->add_stop(""); }, "stopping.stop[0]",
       "0 bytes", "1 to 256"},
      {"LongStop",
       [](Proto& p) {
         p.mutable_stopping()->add_stop("a");
         p.mutable_stopping()->add_stop(std::string(257, 'x'));
       },
       "stopping.stop[1]", "257", "256"},
      {"StopWithoutText",
       [](Proto& p) {
         p.mutable_stopping()->add_stop("a");
         p.mutable_output()->set_text(false);
       },
       "stopping.stop", "output.text is false", "in text"},
      {"StopId", [](Proto& p) { p.mutable_stopping()->add_stop_token_ids(500); },
       "stopping.stop_token_ids[0]", "500", "500 ids", "BAD_TOKEN_ID"},
      {"TooManyStopIds",
       [](Proto& p) {
         for (int i = 0; i < 65; ++i) p.mutable_stopping()->add_stop_token_ids(1);
       },
       "stopping.stop_token_ids", "65", "64"},
      {"Logprobs", [](Proto& p) { p.mutable_output()->set_logprobs(21); }, "output.logprobs", "21",
       "20"},
      {"PromptLogprobs", [](Proto& p) { p.mutable_output()->set_prompt_logprobs(99); },
       "output.prompt_logprobs", "99", "20"},
      {"LogprobsMode",
       [](Proto& p) { p.mutable_output()->set_logprobs_mode(static_cast<v1::LogprobsMode>(7)); },
       "output.logprobs_mode", "7", "no LogprobsMode"},
      {"StreamInterval", [](Proto& p) { p.mutable_output()->set_stream_interval_ms(1001); },
       "output.stream_interval_ms", "1001", "1000"},
      {"SpeculativeMode",
       [](Proto& p) {
         p.mutable_speculative()->set_mode(static_cast<v1::SpeculativeParams::Mode>(9));
       },
       "speculative.mode", "9", "no SpeculativeParams.Mode"},
      {"MaxDraft", [](Proto& p) { p.mutable_speculative()->set_max_draft_tokens(17); },
       "speculative.max_draft_tokens", "17", "16"},
      {"Confidence", [](Proto& p) { p.mutable_speculative()->set_min_draft_confidence(1.0f); },
       "speculative.min_draft_confidence", "is 1", "not including, 1"},
      {"ConfidenceNan", [](Proto& p) { p.mutable_speculative()->set_min_draft_confidence(kNan); },
       "speculative.min_draft_confidence", "nan", "not including, 1"},
      {"Priority", [](Proto& p) { p.mutable_scheduling()->set_priority(-101); },
       "scheduling.priority", "-101", "-100 to 100"},
      {"PriorityHigh", [](Proto& p) { p.mutable_scheduling()->set_priority(101); },
       "scheduling.priority", "101", "-100 to 100"},
      {"Tenant", [](Proto& p) { p.mutable_scheduling()->set_tenant(std::string(129, 't')); },
       "scheduling.tenant", "129", "128"},
      {"Salt", [](Proto& p) { p.mutable_cache()->set_salt(std::string(129, 's')); }, "cache.salt",
       "129", "128"},
      {"Schema",
       [](Proto& p) { p.mutable_guided()->set_json_schema(std::string((64 << 10) + 1, ' ')); },
       "guided.json_schema", "65537", "65536"},
      {"GuidedChoices",
       [](Proto& p) {
         for (int i = 0; i < 257; ++i) p.mutable_guided()->mutable_choice()->add_choices("a");
       },
       "guided.choice", "257", "256"},
      {"IdempotencyKey", [](Proto& p) { p.set_idempotency_key(std::string(129, 'k')); },
       "idempotency_key", "129", "128"},
      {"User", [](Proto& p) { p.set_user(std::string(129, 'u')); }, "user", "129", "128"},
      {"TooManyLabels",
       [](Proto& p) {
         for (char c = 'a'; c < 'a' + 9; ++c) (*p.mutable_labels())[std::string(1, c)] = "";
       },
       "labels", "9", "8"},
      {"LabelKey", [](Proto& p) { (*p.mutable_labels())[std::string(33, 'k')] = ""; }, "labels",
       "33", "32"},
      {"LabelValue", [](Proto& p) { (*p.mutable_labels())["k"] = std::string(65, 'v'); },
       "labels[\"k\"]", "65", "64"},
      {"RequestIdWithSpace", [](Proto& p) { p.set_request_id("a b"); }, "request_id", "\"a b\"",
       "printable ASCII"},
      {"RequestIdLong", [](Proto& p) { p.set_request_id(std::string(129, 'i')); }, "request_id",
       "129", "128"},
      {"NoPrompt", [](Proto& p) { p.clear_prompt(); }, "prompt", "missing", "text or token_ids",
       "EMPTY_PROMPT"},
      {"EmptyText", [](Proto& p) { p.set_text(""); }, "text", "empty", "at least one",
       "EMPTY_PROMPT"},
      {"EmptyIds", [](Proto& p) { p.mutable_token_ids(); }, "token_ids", "empty", "at least one",
       "EMPTY_PROMPT"},
      {"IdOutOfRange",
       [](Proto& p) {
         p.mutable_token_ids()->add_ids(1);
         p.mutable_token_ids()->add_ids(2147483648u);
       },
       "token_ids.ids[1]", "2147483648", "500 ids", "BAD_TOKEN_ID"},
      {"TruncateToNothing", [](Proto& p) { p.set_truncate_prompt_tokens(0); },
       "truncate_prompt_tokens", "is 0", "at least 1"},
  };
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Cases, BadRequestTest, ::testing::ValuesIn(BadCases()),
                         [](const auto& info) { return std::string(info.param.name); });

struct UnsupportedCase {
  const char* name;
  std::function<void(Proto&)> change;
  const char* feature;
};

class UnsupportedFieldTest : public ::testing::TestWithParam<UnsupportedCase> {};

TEST_P(UnsupportedFieldTest, IsNamedAndNotIgnored) {
  Proto proto = TextRequest();
  GetParam().change(proto);
  const absl::Status status = Parse(proto).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
  const StatusReason reason = GetReason(status);
  EXPECT_EQ(reason.reason, "FEATURE_UNSUPPORTED");
  EXPECT_THAT(reason.metadata, ElementsAre(Pair("feature", GetParam().feature)));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, UnsupportedFieldTest,
    ::testing::Values(
        UnsupportedCase{"Idempotency", [](Proto& p) { p.set_idempotency_key("k"); },
                        "idempotency_key"},
        UnsupportedCase{"Guided", [](Proto& p) { p.mutable_guided()->set_json_object(true); },
                        "guided"},
        UnsupportedCase{"RejectionSampling",
                        [](Proto& p) {
                          p.mutable_speculative()->set_acceptance(
                              v1::SpeculativeParams::REJECTION_SAMPLING);
                        },
                        "speculative.acceptance=REJECTION_SAMPLING"},
        UnsupportedCase{"Confidence",
                        [](Proto& p) { p.mutable_speculative()->set_min_draft_confidence(0.5f); },
                        "speculative.min_draft_confidence"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(ParseGenerateRequestTest, RequiringADrafterFailsWithoutOne) {
  Proto proto = TextRequest();
  proto.mutable_speculative()->set_require(true);
  const absl::Status status = Parse(proto).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(GetReason(status).reason, "DRAFTER_UNAVAILABLE");
}

TEST(ParseGenerateRequestTest, AnotherModelIsNotFound) {
  for (const char* good : {"", "demo", "default", "demo:r1"}) {
    Proto proto = TextRequest();
    proto.set_model(good);
    EXPECT_TRUE(Parse(proto).ok()) << good;
  }
  for (const char* bad : {"Demo", "demo:r2", "demo:", ":r1"}) {
    Proto proto = TextRequest();
    proto.set_model(bad);
    const absl::Status status = Parse(proto).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << bad;
    EXPECT_EQ(GetReason(status).reason, "MODEL_NOT_FOUND");
  }
}

// ---- what is accepted ----

TEST(ParseGenerateRequestTest, AbsentFieldsTakeTheModelsDefaultsAndNeutralValues) {
  const GenerationSpec spec = ParsedSpec(TextRequest());
  const engine::SamplingParams& sampling = spec.request.sampling;
  EXPECT_EQ(sampling.temperature, 0.75f);
  EXPECT_EQ(sampling.top_k, 64);
  EXPECT_EQ(sampling.top_p, 0.95f);
  EXPECT_EQ(sampling.min_p, 0.0f);
  EXPECT_EQ(sampling.repetition_penalty, 1.0f);
  EXPECT_EQ(sampling.seed, 4711u);
  EXPECT_EQ(spec.request.n, 1);
  EXPECT_LT(spec.request.stop.max_tokens, 0);
  EXPECT_THAT(spec.request.stop.eos_ids, ElementsAre(1, 106));
  EXPECT_FALSE(spec.request.logprobs.enabled);
  EXPECT_TRUE(spec.text);
  EXPECT_TRUE(spec.skip_special_tokens);
  EXPECT_EQ(spec.stream_interval_tokens, 1);
  const auto& prompt = std::get<TextPrompt>(spec.prompt);
  EXPECT_TRUE(prompt.add_bos);
  EXPECT_FALSE(prompt.parse_special);
  EXPECT_EQ(spec.request.queue_timeout_us, std::numeric_limits<int64_t>::max());
}

TEST(ParseGenerateRequestTest, SamplingFieldsArriveAsSent) {
  Proto proto = TextRequest();
  v1::SamplingParams& sampling = *proto.mutable_sampling();
  sampling.set_temperature(2.0f);
  sampling.set_top_p(0.5f);
  sampling.set_top_k(7);
  sampling.set_min_p(0.1f);
  sampling.set_repetition_penalty(1.5f);
  sampling.set_frequency_penalty(-2.0f);
  sampling.set_presence_penalty(2.0f);
  sampling.set_seed(0xFFFF'FFFF'FFFF'FFFF);
  sampling.set_n(4);
  (*sampling.mutable_logit_bias())[9] = -100;
  (*sampling.mutable_logit_bias())[4] = 5;
  sampling.add_banned_token_ids(3);
  sampling.add_allowed_token_ids(499);
  const GenerationSpec spec = ParsedSpec(proto);
  const engine::SamplingParams& out = spec.request.sampling;
  EXPECT_EQ(out.temperature, 2.0f);
  EXPECT_EQ(out.top_p, 0.5f);
  EXPECT_EQ(out.top_k, 7);
  EXPECT_EQ(out.min_p, 0.1f);
  EXPECT_EQ(out.repetition_penalty, 1.5f);
  EXPECT_EQ(out.frequency_penalty, -2.0f);
  EXPECT_EQ(out.presence_penalty, 2.0f);
  EXPECT_EQ(out.seed, 0xFFFF'FFFF'FFFF'FFFF);
  EXPECT_EQ(spec.request.n, 4);
  EXPECT_THAT(out.logit_bias, ElementsAre(Pair(4, 5.0f), Pair(9, -100.0f)));
  EXPECT_THAT(out.banned, ElementsAre(3));
  EXPECT_THAT(out.allowed, ElementsAre(499));
}

TEST(ParseGenerateRequestTest, TemperaturesThatAreAllButGreedyAreRaised) {
  Proto proto = TextRequest();
  proto.mutable_sampling()->set_temperature(1e-6f);
  EXPECT_EQ(ParsedSpec(proto).request.sampling.temperature, 0.01f);
  proto.mutable_sampling()->set_temperature(0.0f);
  EXPECT_EQ(ParsedSpec(proto).request.sampling.temperature, 0.0f);
}

TEST(ParseGenerateRequestTest, TopKIsOffAtMinusOneAndClampedToTheVocabulary) {
  Proto proto = TextRequest();
  proto.mutable_sampling()->set_top_k(-1);
  EXPECT_EQ(ParsedSpec(proto).request.sampling.top_k, 0);
  proto.mutable_sampling()->set_top_k(2'000'000'000);
  EXPECT_EQ(ParsedSpec(proto).request.sampling.top_k, 500);
}

TEST(ParseGenerateRequestTest, StopsAndOutputOptionsArriveAsSent) {
  Proto proto = TextRequest();
  v1::StoppingParams& stopping = *proto.mutable_stopping();
  stopping.set_max_tokens(10);
  stopping.set_min_tokens(10);
  stopping.add_stop("\n\n");
  stopping.add_stop_token_ids(42);
  stopping.set_ignore_eos(true);
  stopping.set_include_stop(true);
  stopping.set_time_limit_ms(1500);
  v1::OutputOptions& output = *proto.mutable_output();
  output.set_logprobs(0);
  output.set_prompt_logprobs(20);
  output.set_logprobs_mode(v1::LOGPROBS_PROCESSED);
  output.set_skip_special_tokens(false);
  output.set_stream_interval_tokens(4'000'000'000u);
  output.set_stream_interval_ms(1000);
  const GenerationSpec spec = ParsedSpec(proto);
  EXPECT_EQ(spec.request.stop.max_tokens, 10);
  EXPECT_EQ(spec.request.stop.min_tokens, 10);
  EXPECT_THAT(spec.stop, ElementsAre("\n\n"));
  EXPECT_THAT(spec.request.stop.stop_ids, ElementsAre(42));
  EXPECT_THAT(spec.request.stop.eos_ids, IsEmpty());
  EXPECT_TRUE(spec.include_stop);
  EXPECT_EQ(spec.request.stop.time_limit_us, 1'500'000);
  EXPECT_TRUE(spec.request.logprobs.enabled);
  EXPECT_EQ(spec.request.logprobs.top, 0);
  EXPECT_TRUE(spec.request.logprobs.processed);
  EXPECT_EQ(spec.request.prompt_logprobs.top, 20);
  EXPECT_FALSE(spec.request.prompt_logprobs.processed);
  EXPECT_FALSE(spec.skip_special_tokens);
  EXPECT_GT(spec.stream_interval_tokens, 1'000'000);
  EXPECT_EQ(spec.stream_interval_ms, 1000);
}

TEST(ParseGenerateRequestTest, ScoringAPromptNeedsNoTokens) {
  Proto proto = TextRequest();
  proto.mutable_stopping()->set_max_tokens(0);
  proto.mutable_output()->set_prompt_logprobs(0);
  EXPECT_EQ(ParsedSpec(proto).request.stop.max_tokens, 0);
}

TEST(ParseGenerateRequestTest, IdsAreUsedAsGiven) {
  Proto proto;
  for (const uint32_t id : {5u, 6u, 7u}) proto.mutable_token_ids()->add_ids(id);
  EXPECT_THAT(std::get<std::vector<int32_t>>(ParsedSpec(proto).prompt), ElementsAre(5, 6, 7));
  // Unless the client asks otherwise.
  proto.set_add_bos(true);
  proto.set_truncate_prompt_tokens(2);
  EXPECT_THAT(std::get<std::vector<int32_t>>(ParsedSpec(proto).prompt), ElementsAre(2, 6, 7));
}

TEST(ParseGenerateRequestTest, TheRequestIdComesFromMessageThenHeaderThenServer) {
  Proto proto = TextRequest();
  CallFacts call = Call();
  EXPECT_EQ(Parse(proto, call)->request_id, "generated");
  call.request_id_header = "header";
  EXPECT_EQ(Parse(proto, call)->request_id, "header");
  proto.set_request_id("message");
  EXPECT_EQ(Parse(proto, call)->request_id, "message");
  EXPECT_EQ(ParsedSpec(proto, call).request.client_id, "message");
}

TEST(ParseGenerateRequestTest, ABadHeaderIsNamedAsSuch) {
  CallFacts call = Call();
  call.request_id_header = "a\x7f";
  EXPECT_EQ(GetReason(Parse(TextRequest(), call).status()).field, "metadata x-request-id");
}

TEST(ParseGenerateRequestTest, SchedulingFieldsAreTurnedIntoTimesOfTheSchedulersClock) {
  Proto proto = TextRequest();
  proto.mutable_scheduling()->set_priority(-100);
  proto.mutable_scheduling()->set_queue_timeout_ms(250);
  CallFacts call = Call();
  call.deadline_us = 9'000'000;
  call.tenant_header = "from-header";
  const scheduler::Request request = ParsedSpec(proto, call).request;
  EXPECT_EQ(request.priority, -100);
  EXPECT_EQ(request.arrival_us, 1'000'000);
  EXPECT_EQ(request.queue_timeout_us, 1'250'000);
  EXPECT_EQ(request.deadline_us, 9'000'000);
  EXPECT_EQ(request.tenant, "from-header");
  proto.mutable_scheduling()->set_tenant("from-message");
  EXPECT_EQ(ParsedSpec(proto, call).request.tenant, "from-message");
}

TEST(ParseGenerateRequestTest, WhatHoldsTriviallyIsGranted) {
  Proto proto = TextRequest();
  proto.mutable_scheduling()->set_deterministic(true);
  proto.mutable_speculative()->set_mode(v1::SpeculativeParams::FIXED);
  proto.mutable_speculative()->set_max_draft_tokens(16);
  proto.mutable_speculative()->set_acceptance(v1::SpeculativeParams::TOKEN_MATCH);
  proto.set_user("u");
  (*proto.mutable_labels())["team"] = "search";
  EXPECT_TRUE(Parse(proto).ok());
}

TEST(ParseGenerateRequestTest, ThePrefixCacheIsReadAndWrittenUnlessAskedNotTo) {
  const scheduler::PrefixCacheParams by_default = ParsedSpec(TextRequest()).request.prefix_cache;
  EXPECT_TRUE(by_default.read);
  EXPECT_TRUE(by_default.write);
  EXPECT_EQ(by_default.salt, "");
  Proto no_read = TextRequest();
  no_read.mutable_cache()->set_no_read(true);
  EXPECT_FALSE(ParsedSpec(no_read).request.prefix_cache.read);
  EXPECT_TRUE(ParsedSpec(no_read).request.prefix_cache.write);
  Proto no_write = TextRequest();
  no_write.mutable_cache()->set_no_write(true);
  no_write.mutable_cache()->set_salt(std::string(128, 's'));  // the longest
  EXPECT_TRUE(ParsedSpec(no_write).request.prefix_cache.read);
  EXPECT_FALSE(ParsedSpec(no_write).request.prefix_cache.write);
  EXPECT_EQ(ParsedSpec(no_write).request.prefix_cache.salt, std::string(128, 's'));
}

TEST(ParseGenerateRequestTest, AStreamIgnoresTheIdempotencyKey) {
  Proto proto = TextRequest();
  proto.set_idempotency_key("k");
  CallFacts call = Call();
  call.streaming = true;
  EXPECT_TRUE(Parse(proto, call).ok());
}

// ---- speculation ----

using Mode = scheduler::Speculation::Mode;

struct SpeculationCase {
  const char* name;
  std::function<void(v1::SpeculativeParams&)> change;
  const char* header;  // null: none
  Mode mode;
  int max_draft_tokens;
};

class SpeculationWishTest : public ::testing::TestWithParam<SpeculationCase> {};

TEST_P(SpeculationWishTest, TheFieldGoesBeforeTheMetadataBeforeTheServer) {
  Proto proto = TextRequest();
  if (GetParam().change) GetParam().change(*proto.mutable_speculative());
  CallFacts call = Call();
  if (GetParam().header != nullptr) call.spec_header = GetParam().header;
  const auto parsed = ParseGenerateRequest(proto, DraftingModel(), {.max_n = 4}, call);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->spec.request.speculation.mode, GetParam().mode);
  EXPECT_EQ(parsed->spec.request.speculation.max_draft_tokens, GetParam().max_draft_tokens);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, SpeculationWishTest,
    ::testing::Values(
        SpeculationCase{"Nothing", nullptr, nullptr, Mode::kAuto, 3},
        SpeculationCase{"Off", [](auto& p) { p.set_mode(v1::SpeculativeParams::OFF); }, nullptr,
                        Mode::kOff, 3},
        SpeculationCase{"FixedTwo",
                        [](auto& p) {
                          p.set_mode(v1::SpeculativeParams::FIXED);
                          p.set_max_draft_tokens(2);
                        },
                        nullptr, Mode::kFixed, 2},
        SpeculationCase{"Clamped", [](auto& p) { p.set_max_draft_tokens(16); }, nullptr,
                        Mode::kAuto, 3},
        SpeculationCase{"NoTokensIsOff", [](auto& p) { p.set_max_draft_tokens(0); }, nullptr,
                        Mode::kOff, 0},
        SpeculationCase{"HeaderOff", nullptr, "off", Mode::kOff, 3},
        SpeculationCase{"HeaderAuto", nullptr, "auto", Mode::kAuto, 3},
        SpeculationCase{"HeaderFixed", nullptr, "fixed:2", Mode::kFixed, 2},
        SpeculationCase{"HeaderClamped", nullptr, "fixed:16", Mode::kFixed, 3},
        SpeculationCase{"HeaderFixedNone", nullptr, "fixed:0", Mode::kOff, 0},
        SpeculationCase{"FieldBeatsHeader",
                        [](auto& p) { p.set_mode(v1::SpeculativeParams::AUTO); }, "off",
                        Mode::kAuto, 3},
        SpeculationCase{"EachFieldByItself", [](auto& p) { p.set_max_draft_tokens(1); }, "fixed:2",
                        Mode::kFixed, 1},
        SpeculationCase{"Required", [](auto& p) { p.set_require(true); }, nullptr, Mode::kAuto, 3}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(SpeculationHeaderTest, WhatItCanNotMeanIsRefusedByName) {
  for (const char* bad : {"", "on", "fixed", "fixed:", "fixed:17", "fixed:-1", "fixed:2x", "OFF"}) {
    CallFacts call = Call();
    call.spec_header = bad;
    const absl::Status status =
        ParseGenerateRequest(TextRequest(), DraftingModel(), {.max_n = 4}, call).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_EQ(GetReason(status).reason, "BAD_PARAMETER") << bad;
    EXPECT_EQ(GetReason(status).field, "metadata x-tandem-spec") << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr("fixed:<n>")) << bad;
  }
}

TEST(SpeculationTest, WithoutADrafterItIsOffWhateverIsAsked) {
  Proto proto = TextRequest();
  proto.mutable_speculative()->set_mode(v1::SpeculativeParams::FIXED);
  proto.mutable_speculative()->set_max_draft_tokens(4);
  EXPECT_EQ(ParsedSpec(proto).request.speculation.mode, Mode::kOff);
}

}  // namespace
}  // namespace tandem::server
