#include "server/metrics/metrics.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class MetricsTest : public ::testing::Test {
 protected:
  std::string Render() { return metrics_.Render(health_); }

  HealthState health_;
  Metrics metrics_{"demo"};
};

TEST_F(MetricsTest, RoutersFindTheirGaugesUnderVllmNamesWithOneSeriesEach) {
  // Given a snapshot with a fuller sliding pool.
  scheduler::SchedulerStats stats;
  stats.running = 3;
  stats.queued_requests = 1;
  stats.preempted_now = 1;
  stats.paused = 3;
  stats.blocks_total = {10, 100};
  stats.blocks_used = {5, 20};
  metrics_.WatchEngine({.stats = [&] { return stats; }, .now_us = [] { return int64_t{0}; }});
  // When it is scraped.
  const std::string text = Render();
  // Then the gauges carry it, with the labels of vLLM.
  EXPECT_THAT(text, HasSubstr("vllm:num_requests_running{engine=\"0\",model_name=\"demo\"} 3"));
  EXPECT_THAT(text, HasSubstr("vllm:num_requests_waiting{engine=\"0\",model_name=\"demo\"} 2"));
  EXPECT_THAT(text, HasSubstr("vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"demo\"} 0.5"));
  EXPECT_THAT(text, HasSubstr("vllm:gpu_cache_usage_perc{engine=\"0\",model_name=\"demo\"} 0.5"));
  EXPECT_THAT(text, HasSubstr("tandem_stream_paused{model_name=\"demo\"} 3"));
  EXPECT_THAT(text, HasSubstr("tandem_kv_blocks{model_name=\"demo\",group=\"full\",state=\"free\"} "
                              "80"));
}

TEST_F(MetricsTest, CountersFollowTheSnapshotAndNeverCountTwice) {
  scheduler::SchedulerStats stats;
  stats.generated_tokens_total = 5;
  stats.choices_finished_total[static_cast<int>(scheduler::FinishReason::kStopEos)] = 1;
  stats.choices_finished_total[static_cast<int>(scheduler::FinishReason::kStopString)] = 1;
  stats.choices_finished_total[static_cast<int>(scheduler::FinishReason::kMaxTokens)] = 4;
  metrics_.WatchEngine({.stats = [&] { return stats; }, .now_us = [] { return int64_t{0}; }});
  Render();
  Render();
  stats.generated_tokens_total = 7;
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("vllm:generation_tokens_total{engine=\"0\",model_name=\"demo\"} 7"));
  EXPECT_THAT(text, HasSubstr("finished_reason=\"stop\"} 2"));
  EXPECT_THAT(text, HasSubstr("finished_reason=\"length\"} 4"));
  EXPECT_THAT(text, HasSubstr("finished_reason=\"abort\"} 0"));
}

TEST_F(MetricsTest, CachedBlocksAreNeitherUsedNorFreeAndHitsAreCountedOnce) {
  // Given a full pool of which most is only cached.
  scheduler::SchedulerStats stats;
  stats.blocks_total = {0, 100};
  stats.blocks_used = {0, 20};
  stats.blocks_cached = {0, 70};
  stats.prefix_query_tokens_total = 5000;
  stats.prefix_hit_tokens_total = 4000;
  stats.prefix_evicted_blocks_total = 3;
  metrics_.WatchEngine({.stats = [&] { return stats; }, .now_us = [] { return int64_t{0}; }});
  // When it is scraped twice.
  Render();
  const std::string text = Render();
  // Then a warm cache does not look like a busy server.
  EXPECT_THAT(text, HasSubstr("vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"demo\"} 0.2"));
  const std::string blocks = "tandem_kv_blocks{model_name=\"demo\",group=\"full\",state=";
  EXPECT_THAT(text, HasSubstr(blocks + "\"used\"} 20"));
  EXPECT_THAT(text, HasSubstr(blocks + "\"cached\"} 70"));
  EXPECT_THAT(text, HasSubstr(blocks + "\"free\"} 10"));
  EXPECT_THAT(text, Not(HasSubstr("group=\"sliding\"")));  // the model has no such layers
  const std::string vllm = "{engine=\"0\",model_name=\"demo\"} ";
  EXPECT_THAT(text, HasSubstr("vllm:prefix_cache_queries_total" + vllm + "5000"));
  EXPECT_THAT(text, HasSubstr("vllm:prefix_cache_hits_total" + vllm + "4000"));
  EXPECT_THAT(text, HasSubstr("tandem_prefix_evicted_blocks_total{model_name=\"demo\"} 3"));
}

TEST_F(MetricsTest, AStepIsCountedUnderTheKindOfItsRows) {
  metrics_.OnStep({.rows = 40, .prompt_rows = 40, .duration_us = 2000});
  metrics_.OnStep({.rows = 8, .decode_rows = 8, .duration_us = 1000});
  metrics_.OnStep({.rows = 9, .prompt_rows = 1, .decode_rows = 8, .duration_us = 1000});
  const std::string text = Render();
  for (const char* kind : {"prefill", "decode", "mixed"}) {
    EXPECT_THAT(text, HasSubstr(std::string("tandem_step_seconds_count{model_name=\"demo\",kind=") +
                                '"' + kind + "\"} 1"));
  }
  EXPECT_THAT(text, HasSubstr("vllm:iteration_tokens_total_sum{engine=\"0\",model_name=\"demo\"} "
                              "57"));
}

TEST_F(MetricsTest, AStepThatVerifiesIsOneOfItsOwnKindAndItsDraftingIsTakenApart) {
  metrics_.OnStep({.rows = 3,
                   .decode_rows = 3,
                   .draft_rows = 2,
                   .drafting = 1,
                   .draft_steps = 2,
                   .duration_us = 5'000'000,
                   .draft_us = 1'000'000});
  const std::string text = Render();
  const std::string sum = "tandem_step_seconds_sum{model_name=\"demo\",kind=";
  EXPECT_THAT(text, HasSubstr(sum + "\"verify\"} 4"));
  EXPECT_THAT(text, HasSubstr(sum + "\"draft\"} 1"));
  EXPECT_THAT(text, HasSubstr(sum + "\"decode\"} 0"));
  EXPECT_THAT(text, HasSubstr("tandem_spec_depth_sum{model_name=\"demo\"} 2"));
}

TEST_F(MetricsTest, DraftsAreCountedUnderVllmNamesAndByPosition) {
  // Given ten rounds: two without a draft, eight with one of two guesses, of which the first held
  // six times and the second twice.
  scheduler::SchedulerStats stats;
  stats.drafts = {.rounds = 10,
                  .rounds_with_draft = 8,
                  .drafted = 16,
                  .accepted = 8,
                  .discarded = 3,
                  .failed = 1};
  stats.drafts.drafted_at = {8, 8};
  stats.drafts.accepted_at = {6, 2};
  stats.draft_auto_off_total = 5;
  stats.drafting = 7;
  metrics_.SetModel({.drafter = "demo/assistant", .max_draft_tokens = 2});
  metrics_.WatchEngine({.stats = [&] { return stats; }, .now_us = [] { return int64_t{0}; }});
  // When it is scraped twice, then everything is counted once.
  Render();
  const std::string text = Render();
  const std::string vllm = "{engine=\"0\",model_name=\"demo\"";
  const std::string own = "{model_name=\"demo\"";
  EXPECT_THAT(text, HasSubstr("vllm:spec_decode_num_drafts_total" + vllm + "} 8"));
  EXPECT_THAT(text, HasSubstr("vllm:spec_decode_num_draft_tokens_total" + vllm + "} 16"));
  EXPECT_THAT(text, HasSubstr("vllm:spec_decode_num_accepted_tokens_total" + vllm + "} 8"));
  const std::string accepted_at = "vllm:spec_decode_num_accepted_tokens_per_pos_total" + vllm;
  EXPECT_THAT(text, HasSubstr(accepted_at + ",position=\"0\"} 6"));
  EXPECT_THAT(text, HasSubstr(accepted_at + ",position=\"1\"} 2"));
  EXPECT_THAT(text, Not(HasSubstr("position=\"2\"")));
  const std::string drafted_at = "tandem_spec_draft_tokens_per_pos_total" + own;
  EXPECT_THAT(text, HasSubstr(drafted_at + ",position=\"1\"} 8"));
  EXPECT_THAT(text, HasSubstr("tandem_spec_rounds_total" + own + "} 10"));
  EXPECT_THAT(text, HasSubstr("tandem_spec_unused_draft_tokens_total" + own + "} 3"));
  EXPECT_THAT(text, HasSubstr("tandem_spec_failed_drafts_total" + own + "} 1"));
  EXPECT_THAT(text, HasSubstr("tandem_spec_auto_off_total" + own + "} 5"));
  EXPECT_THAT(text, HasSubstr("tandem_spec_drafting" + own + "} 7"));
  // Two rounds gave one token, four two, and two three.
  const std::string rounds = "tandem_spec_round_tokens_bucket" + own + ",le=";
  EXPECT_THAT(text, HasSubstr(rounds + "\"1\"} 2"));
  EXPECT_THAT(text, HasSubstr(rounds + "\"2\"} 6"));
  EXPECT_THAT(text, HasSubstr(rounds + "\"3\"} 8"));
  EXPECT_THAT(text, HasSubstr("tandem_spec_round_tokens_sum" + own + "} 16"));
  EXPECT_THAT(text, HasSubstr("drafter=\"demo/assistant\""));
}

TEST_F(MetricsTest, AMergedDeltaCountsOnceForEachOfItsTokens) {
  metrics_.OnFirstToken(250'000);
  metrics_.OnMoreTokens(/*gap_us=*/300'000, /*tokens=*/3);
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("vllm:time_to_first_token_seconds_count{engine=\"0\",model_name="
                              "\"demo\"} 1"));
  EXPECT_THAT(text, HasSubstr("vllm:inter_token_latency_seconds_count{engine=\"0\",model_name="
                              "\"demo\"} 3"));
  EXPECT_THAT(text, HasSubstr("vllm:inter_token_latency_seconds_bucket{engine=\"0\",model_name="
                              "\"demo\",le=\"0.1\"} 3"));
}

TEST_F(MetricsTest, ARefusalForWantOfRoomIsARejectionAndABadParameterIsNot) {
  metrics_.OnRequestDone({.status = absl::ResourceExhaustedError(""), .reason = "QUEUE_FULL"});
  metrics_.OnRequestDone({.status = absl::InvalidArgumentError(""), .reason = "BAD_PARAMETER"});
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("vllm:admission_rejections_total{engine=\"0\",model_name=\"demo\","
                              "reason=\"QUEUE_FULL\"} 1"));
  EXPECT_THAT(text, Not(HasSubstr("BAD_PARAMETER")));
  EXPECT_THAT(text, HasSubstr("vllm:e2e_request_latency_seconds_count{engine=\"0\",model_name="
                              "\"demo\"} 0"));
}

TEST_F(MetricsTest, AFinishedRequestFillsItsHistograms) {
  metrics_.OnRequestDone({.started = true,
                          .n = 2,
                          .stats = {.prompt_tokens = 7,
                                    .completion_tokens = 10,
                                    .queue_us = 1'000'000,
                                    .prefill_us = 2'000'000,
                                    .decode_us = 4'000'000,
                                    .total_us = 7'000'000}});
  const std::string text = Render();
  const std::string labels = "_sum{engine=\"0\",model_name=\"demo\"} ";
  EXPECT_THAT(text, HasSubstr("vllm:request_queue_time_seconds" + labels + "1"));
  EXPECT_THAT(text, HasSubstr("vllm:request_inference_time_seconds" + labels + "6"));
  EXPECT_THAT(text, HasSubstr("vllm:e2e_request_latency_seconds" + labels + "7"));
  // 4 s for the 4 tokens after the first of each choice.
  EXPECT_THAT(text, HasSubstr("vllm:request_time_per_output_token_seconds" + labels + "1"));
  EXPECT_THAT(text, HasSubstr("vllm:request_generation_tokens" + labels + "10"));
}

TEST(TenantMetricsTest, TokensAreCountedForTheTenantsNamedAndForAllOthersTogether) {
  Metrics metrics("demo", {"blue"});
  for (const char* tenant : {"blue", "green", "blue", ""}) {
    metrics.OnRequestDone({.started = true,
                           .max_tokens = 50,
                           .tenant = tenant,
                           .stats = {.prompt_tokens = 3, .completion_tokens = 4}});
  }
  HealthState health;
  const std::string text = metrics.Render(health);
  const std::string labels = "{model_name=\"demo\",tenant=";
  EXPECT_THAT(text, HasSubstr("tandem_tenant_tokens_total" + labels + "\"blue\"} 14"));
  EXPECT_THAT(text, HasSubstr("tandem_tenant_tokens_total" + labels + "\"other\"} 14"));
  EXPECT_THAT(text, HasSubstr("vllm:request_params_max_tokens_sum{engine=\"0\",model_name="
                              "\"demo\"} 200"));
}

TEST_F(MetricsTest, AFreedRequestIsTimed) {
  metrics_.OnFreed(2'000'000);
  EXPECT_THAT(Render(), HasSubstr("tandem_cancel_to_free_seconds_sum{model_name=\"demo\"} 2"));
}

TEST_F(MetricsTest, WhoeverEndedARequestEarlyIsCounted) {
  metrics_.OnRequestDone({.status = absl::CancelledError(""), .reason = "CLIENT_CANCELLED"});
  metrics_.OnRequestDone({.status = absl::DeadlineExceededError(""), .reason = "DEADLINE"});
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("cause=\"client\"} 1"));
  EXPECT_THAT(text, HasSubstr("cause=\"deadline\"} 1"));
  EXPECT_THAT(text, HasSubstr("cause=\"slow\"} 0"));
}

TEST_F(MetricsTest, GroupsTellTheirFormatsAndTheRowsThatWereStoredOtherwise) {
  // Given a model with full layers only, two of them protected,
  metrics_.SetModel(
      {.kv_formats =
           {{.group = engine::kFull, .k = "turbo4", .v = "turbo3", .k_path = "int8", .layers = 6},
            {.group = engine::kFull, .k = "bf16", .v = "q8", .k_path = "float", .layers = 2}},
       .kv_bytes_per_token = {0, 2080}});
  // and counts of its rows, of which some come between two scrapes.
  kernels::KvEncodeCounts counts;
  counts.zero[0] = 3;
  metrics_.WatchEngine({.kv_encoded = [&](engine::KvGroup group) -> kernels::KvEncodeCounts& {
    EXPECT_EQ(group, engine::kFull);
    return counts;
  }});
  Render();
  counts.zero[0] = 5;
  counts.nonfinite[1] = 1;
  const std::string text = Render();
  // Then each pair of formats has its number of layers, and every row is counted once.
  const std::string info = "tandem_kv_format_info{model_name=\"demo\",group=\"full\",k=";
  EXPECT_THAT(text, HasSubstr(info + "\"turbo4\",k_path=\"int8\",v=\"turbo3\"} 6"));
  EXPECT_THAT(text, HasSubstr(info + "\"bf16\",k_path=\"float\",v=\"q8\"} 2"));
  EXPECT_THAT(text,
              HasSubstr("tandem_kv_bytes_per_token{model_name=\"demo\",group=\"full\"} 2080"));
  const auto rows = [](const std::string& what, const std::string& side) {
    return "tandem_kv_encode_" + what + "_total{model_name=\"demo\",layer_kind=\"full\",side=\"" +
           side + "\"} ";
  };
  EXPECT_THAT(text, HasSubstr(rows("zero", "k") + "5"));
  EXPECT_THAT(text, HasSubstr(rows("zero", "v") + "0"));
  EXPECT_THAT(text, HasSubstr(rows("nonfinite", "v") + "1"));
  EXPECT_THAT(text, HasSubstr(rows("clamped", "k") + "0"));
  EXPECT_THAT(text, Not(HasSubstr("sliding")));
}

TEST_F(MetricsTest, CallsModelAndPhaseAreTold) {
  metrics_.OnGrpcCall("Generate", 3);
  metrics_.SetModel({.architecture = "gemma4",
                     .kv_format = "q8",
                     .kv_block_tokens = 32,
                     .kv_blocks = 77,
                     .prefix_cache = true});
  metrics_.SetStartupSeconds("load", 1.5);
  health_.SetPhase(Phase::kDraining);
  const std::string text = Render();
  EXPECT_THAT(text, HasSubstr("code=\"INVALID_ARGUMENT\""));
  EXPECT_THAT(text, HasSubstr("block_size=\"32\",cache_dtype=\"q8\",enable_prefix_caching="
                              "\"True\",num_gpu_blocks=\"77\"} 1"));
  EXPECT_THAT(text, HasSubstr("architecture=\"gemma4\""));
  EXPECT_THAT(text, HasSubstr("tandem_startup_seconds{model_name=\"demo\",phase=\"load\"} 1.5"));
  EXPECT_THAT(text, HasSubstr("tandem_draining{model_name=\"demo\"} 1"));
}

}  // namespace
}  // namespace tandem::server
