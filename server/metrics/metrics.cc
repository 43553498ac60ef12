#include "server/metrics/metrics.h"

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <sstream>
#include <utility>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"
#include "scheduler/draft_report.h"

namespace tandem::server {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;
using Buckets = Histogram::BucketBoundaries;
using scheduler::FinishReason;
using scheduler::SchedulerStats;

// Seconds, as in grpc-surface 5.2, so that dashboards made for vLLM line up.
const Buckets kFirstTokenBuckets = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                    1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
const Buckets kTokenBuckets = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                               .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
const Buckets kRequestBuckets = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
const Buckets kStepTokenBuckets = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
// Prompt and completion lengths: 1, 2, 5 and so on, past the longest context.
const Buckets kLengthBuckets = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                                1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
const Buckets kStepBuckets = {.0005, .001, .0025, .005, .01, .025, .05, .1,
                              .25,   .5,   1,     2.5,  5,   10,   30};
const Buckets kFreeBuckets = {.0001, .0005, .001, .0025, .005, .01, .025, .05,
                              .1,    .25,   .5,   1,     2.5,  5,   10,   30};
const Buckets kScheduleBuckets = {.00001, .000025, .00005, .0001, .00025, .0005,
                                  .001,   .0025,   .005,   .01,   .05,    .25};

// One bucket per number: tokens of a round that verified a draft, drafter forwards of a step.
const Buckets kDraftBuckets = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
static_assert(scheduler::kMaxDraftTokens == 16, "kDraftBuckets");

constexpr std::array<const char*, 17> kGrpcCodes = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

constexpr std::array<const char*, engine::kNumKvGroups> kGroupNames = {"sliding", "full"};

double Seconds(int64_t us) { return static_cast<double>(us) * 1e-6; }

const char* FinishedReasonLabel(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStopEos:
    case FinishReason::kStopToken:
    case FinishReason::kStopString:
    case FinishReason::kToolCalls:
      return "stop";
    case FinishReason::kMaxTokens:
    case FinishReason::kContextLength:
    case FinishReason::kTimeLimit:
      return "length";
    case FinishReason::kAborted:
      return "abort";
  }
  return "abort";
}

// The `cause` of a cancellation by the reason its request ended with; empty: was not cancelled.
std::string_view CancellationCause(std::string_view reason) {
  if (reason == "CLIENT_CANCELLED") return "client";
  if (reason == "ABORTED_BY_REQUEST") return "abort";
  if (reason == "DEADLINE" || reason == "QUEUE_TIMEOUT") return "deadline";
  if (reason == "SHUTTING_DOWN") return "drain";
  if (reason == "SLOW_CONSUMER") return "slow";
  return {};
}

}  // namespace

struct Metrics::Impl {
  explicit Impl(std::string_view model_name)
      : own_labels{{"model_name", std::string(model_name)}},
        vllm_labels{{"model_name", std::string(model_name)}, {"engine", "0"}} {}

  // A family named like vLLM's also carries its `engine` label.
  const Labels& LabelsFor(const std::string& name) const {
    return name.starts_with("vllm:") ? vllm_labels : own_labels;
  }
  Family<Counter>& Counters(const std::string& name, const std::string& help) {
    return prometheus::BuildCounter()
        .Name(name)
        .Help(help)
        .Labels(LabelsFor(name))
        .Register(registry);
  }
  Family<Gauge>& Gauges(const std::string& name, const std::string& help) {
    return prometheus::BuildGauge()
        .Name(name)
        .Help(help)
        .Labels(LabelsFor(name))
        .Register(registry);
  }
  Family<Histogram>& Histograms(const std::string& name, const std::string& help) {
    return prometheus::BuildHistogram()
        .Name(name)
        .Help(help)
        .Labels(LabelsFor(name))
        .Register(registry);
  }
  Counter& OneCounter(const std::string& name, const std::string& help) {
    return Counters(name, help).Add({});
  }
  Gauge& OneGauge(const std::string& name, const std::string& help) {
    return Gauges(name, help).Add({});
  }
  Histogram& OneHistogram(const std::string& name, const std::string& help, const Buckets& b) {
    return Histograms(name, help).Add({}, b);
  }

  void TakeSnapshot(const SchedulerStats& now);
  void CountKvRows();
  void CountDrafts(const scheduler::DraftCounts& more);

  prometheus::Registry registry;
  const Labels own_labels;
  const Labels vllm_labels;

  // From the scheduler's snapshot, while rendering.
  Gauge& waiting = OneGauge("vllm:num_requests_waiting",
                            "Requests that are tokenized or queued, and preempted sequences.");
  Gauge& running = OneGauge("vllm:num_requests_running", "Sequences that hold KV blocks.");
  Gauge& kv_usage =
      OneGauge("vllm:kv_cache_usage_perc", "Used share of the fuller KV block pool, 0 to 1.");
  Gauge& kv_usage_old =
      OneGauge("vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc under its former name.");
  Counter& prompt_tokens = OneCounter("vllm:prompt_tokens_total", "Prompt tokens computed.");
  Counter& generated_tokens = OneCounter("vllm:generation_tokens_total", "Tokens generated.");
  Counter& preemptions = OneCounter("vllm:num_preemptions_total",
                                    "Sequences that gave up their KV blocks for others.");
  Family<Counter>& finished =
      Counters("vllm:request_success_total", "Choices that ended, by why: stop, length or abort.");
  Family<Gauge>& kv_blocks = Gauges(
      "tandem_kv_blocks", "KV blocks by group and state; cached ones make room when needed.");
  Counter& prefix_queries =
      OneCounter("vllm:prefix_cache_queries_total",
                 "Prompt tokens of requests that looked for them in the prefix cache.");
  Counter& prefix_hits = OneCounter("vllm:prefix_cache_hits_total",
                                    "Of these, tokens found there and not computed again.");
  Counter& prefix_evicted = OneCounter("tandem_prefix_evicted_blocks_total",
                                       "Cached KV blocks that were forgotten to make room.");
  Gauge& paused =
      OneGauge("tandem_stream_paused", "Requests paused because their client reads too slowly.");
  Gauge& queue_tokens =
      OneGauge("tandem_queue_tokens", "Prompt tokens of requests that have not started.");
  Gauge& heartbeat_age =
      OneGauge("tandem_engine_heartbeat_age_seconds",
               "Time since the engine last went round: once a second when idle.");
  Gauge& draining = OneGauge("tandem_draining", "1 when new calls are refused.");

  // K and V rows that were stored otherwise than they came, by kind of layer; likewise.
  std::array<Family<Counter>*, 3> kv_encoded = {
      &Counters("tandem_kv_encode_nonfinite_total",
                "K or V rows that were not finite and are stored as zeros."),
      &Counters("tandem_kv_encode_clamped_total", "K or V rows whose scale was cut."),
      &Counters("tandem_kv_encode_zero_total", "K or V rows too small to be stored but as zeros.")};

  // Speculation, likewise.
  Counter& spec_drafts = OneCounter("vllm:spec_decode_num_drafts_total", "Drafts verified.");
  Counter& spec_drafted =
      OneCounter("vllm:spec_decode_num_draft_tokens_total", "Drafted tokens verified.");
  Counter& spec_accepted =
      OneCounter("vllm:spec_decode_num_accepted_tokens_total", "Drafted tokens that held.");
  Family<Counter>& spec_accepted_at =
      Counters("vllm:spec_decode_num_accepted_tokens_per_pos_total",
               "Drafted tokens that held, by position in the draft.");
  Family<Counter>& spec_drafted_at = Counters("tandem_spec_draft_tokens_per_pos_total",
                                              "Drafted tokens verified, by position in the draft.");
  Counter& spec_rounds = OneCounter("tandem_spec_rounds_total",
                                    "Steps of decoding sequences, with or without a draft.");
  Histogram& spec_round_tokens =
      OneHistogram("tandem_spec_round_tokens",
                   "Tokens per verified draft, the bonus token included.", kDraftBuckets);
  Counter& spec_unused =
      OneCounter("tandem_spec_unused_draft_tokens_total", "Drafted tokens never verified.");
  Counter& spec_failed =
      OneCounter("tandem_spec_failed_drafts_total", "Drafts that a NaN or infinity ended.");
  Counter& spec_auto_off =
      OneCounter("tandem_spec_auto_off_total", "Sequences whose drafts stopped paying off.");
  Gauge& spec_drafting =
      OneGauge("tandem_spec_drafting", "Sequences that got a draft in the last step.");

  // Per step.
  Histogram& step_tokens =
      OneHistogram("vllm:iteration_tokens_total", "Rows per step.", kStepTokenBuckets);
  Family<Histogram>& step_seconds =
      Histograms("tandem_step_seconds",
                 "Time of the engine per step: of the target by its rows, and of the drafter.");
  Histogram& prefill_step = step_seconds.Add({{"kind", "prefill"}}, kStepBuckets);
  Histogram& decode_step = step_seconds.Add({{"kind", "decode"}}, kStepBuckets);
  Histogram& verify_step = step_seconds.Add({{"kind", "verify"}}, kStepBuckets);
  Histogram& mixed_step = step_seconds.Add({{"kind", "mixed"}}, kStepBuckets);
  Histogram& draft_step = step_seconds.Add({{"kind", "draft"}}, kStepBuckets);
  Histogram& spec_depth =
      OneHistogram("tandem_spec_depth", "Drafter forwards per step that drafts.", kDraftBuckets);
  Histogram& schedule_seconds = OneHistogram(
      "tandem_schedule_seconds", "Time between two steps, sleep excluded.", kScheduleBuckets);

  // Per request.
  Histogram& ttft = OneHistogram("vllm:time_to_first_token_seconds", "Arrival to the first token.",
                                 kFirstTokenBuckets);
  Histogram& inter_token = OneHistogram("vllm:inter_token_latency_seconds",
                                        "Between tokens of a choice.", kTokenBuckets);
  Histogram& per_token =
      OneHistogram("vllm:request_time_per_output_token_seconds",
                   "Mean time per token after the first, per request.", kTokenBuckets);
  Histogram& total =
      OneHistogram("vllm:e2e_request_latency_seconds", "Arrival to the end.", kRequestBuckets);
  Histogram& queue_time =
      OneHistogram("vllm:request_queue_time_seconds", "Arrival to the first row.", kRequestBuckets);
  Histogram& prefill_time = OneHistogram("vllm:request_prefill_time_seconds",
                                         "First row to first token.", kRequestBuckets);
  Histogram& decode_time =
      OneHistogram("vllm:request_decode_time_seconds", "First token to the end.", kRequestBuckets);
  Histogram& inference_time =
      OneHistogram("vllm:request_inference_time_seconds", "First row to the end.", kRequestBuckets);
  Histogram& prompt_length =
      OneHistogram("vllm:request_prompt_tokens", "Prompt tokens per request.", kLengthBuckets);
  Histogram& output_length = OneHistogram("vllm:request_generation_tokens",
                                          "Generated tokens per request.", kLengthBuckets);
  Histogram& max_tokens_asked = OneHistogram("vllm:request_params_max_tokens",
                                             "max_tokens of requests that set it.", kLengthBuckets);
  Histogram& cancel_to_free = OneHistogram(
      "tandem_cancel_to_free_seconds",
      "From the cancellation of a request until its KV blocks are free.", kFreeBuckets);
  Family<Counter>& tenant_tokens =
      Counters("tandem_tenant_tokens_total", "Prompt and generated tokens of finished requests.");
  Family<Counter>& rejections =
      Counters("vllm:admission_rejections_total", "Requests refused for want of room or service.");
  Family<Counter>& cancellations =
      Counters("tandem_cancellations_total", "Requests ended early, by who ended them.");
  Family<Counter>& grpc_calls =
      Counters("tandem_grpc_requests_total", "gRPC calls by method and status code.");

  // Facts.
  Family<Gauge>& cache_info = Gauges("vllm:cache_config_info", "Shape of the KV cache.");
  Family<Gauge>& kv_formats =
      Gauges("tandem_kv_format_info", "Layers of a KV group by their formats.");
  Family<Gauge>& kv_token_bytes =
      Gauges("tandem_kv_bytes_per_token", "Bytes of KV per token that a group holds.");
  Family<Gauge>& model_info = Gauges("tandem_model_info", "The model that is loaded.");
  Family<Gauge>& startup = Gauges("tandem_startup_seconds", "Time spent starting, by phase.");

  // Const once constructed.
  std::map<std::string, Counter*, std::less<>> tokens_of_tenant;
  Counter* tokens_of_others = nullptr;

  std::mutex mutex;  // the fields below
  EngineProbe probe;
  int max_draft_tokens = 0;                            // positions that have series
  std::array<bool, engine::kNumKvGroups> has_kv = {};  // groups that have series
  // What the counters of K and V rows have seen: [kv_encoded][group][K, V].
  std::array<std::array<std::array<uint64_t, 2>, engine::kNumKvGroups>, 3> last_encoded = {};
  SchedulerStats last;  // what the counters have seen
};

Metrics::Metrics(std::string_view model_name, const std::vector<std::string>& tenants)
    : impl_(std::make_unique<Impl>(model_name)) {
  // Series that exist from the start, so that rates work on their first event.
  for (const char* reason : {"stop", "length", "abort"}) {
    impl_->finished.Add({{"finished_reason", reason}});
  }
  for (const char* cause : {"client", "abort", "deadline", "drain", "slow"}) {
    impl_->cancellations.Add({{"cause", cause}});
  }
  for (const std::string& tenant : tenants) {
    impl_->tokens_of_tenant.emplace(tenant, &impl_->tenant_tokens.Add({{"tenant", tenant}}));
  }
  impl_->tokens_of_others = &impl_->tenant_tokens.Add({{"tenant", "other"}});
  // Routers look for this one; it says that no adapters can be loaded.
  impl_->Gauges("vllm:lora_requests_info", "Adapters in use; the value is the time of the start.")
      .Add({{"max_lora", "0"}, {"running_lora_adapters", ""}, {"waiting_lora_adapters", ""}})
      .Set(std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
               .count());
}

Metrics::~Metrics() = default;

void Metrics::SetModel(const ModelFacts& facts) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->max_draft_tokens = facts.max_draft_tokens;
    for (int g = 0; g < engine::kNumKvGroups; ++g) {
      impl_->has_kv[g] = facts.kv_bytes_per_token[g] > 0;
    }
  }
  impl_->cache_info
      .Add({{"block_size", std::to_string(facts.kv_block_tokens)},
            {"num_gpu_blocks", std::to_string(facts.kv_blocks)},
            {"cache_dtype", facts.kv_format},
            {"enable_prefix_caching", facts.prefix_cache ? "True" : "False"}})
      .Set(1);
  for (const KvFormatFacts& kv : facts.kv_formats) {
    impl_->kv_formats
        .Add({{"group", kGroupNames[kv.group]}, {"k", kv.k}, {"v", kv.v}, {"k_path", kv.k_path}})
        .Set(kv.layers);
  }
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    const auto bytes = static_cast<double>(facts.kv_bytes_per_token[g]);
    if (bytes > 0) impl_->kv_token_bytes.Add({{"group", kGroupNames[g]}}).Set(bytes);
  }
  impl_->model_info
      .Add({{"architecture", facts.architecture},
            {"revision", facts.revision},
            {"weight_format", facts.weight_format},
            {"kv_format", facts.kv_format},
            {"drafter", facts.drafter},
            {"backend", facts.backend}})
      .Set(1);
}

void Metrics::SetStartupSeconds(std::string_view phase, double seconds) {
  impl_->startup.Add({{"phase", std::string(phase)}}).Set(seconds);
}

void Metrics::WatchEngine(EngineProbe probe) {
  const std::lock_guard lock(impl_->mutex);
  impl_->probe = std::move(probe);
}

void Metrics::OnStep(const scheduler::StepTiming& timing) {
  impl_->step_tokens.Observe(timing.rows);
  Histogram& kind = timing.decode_rows == 0  ? impl_->prefill_step
                    : timing.prompt_rows > 0 ? impl_->mixed_step
                    : timing.draft_rows > 0  ? impl_->verify_step
                                             : impl_->decode_step;
  kind.Observe(Seconds(timing.duration_us - timing.draft_us));
  if (timing.drafting > 0) {
    impl_->draft_step.Observe(Seconds(timing.draft_us));
    impl_->spec_depth.Observe(timing.draft_steps);
  }
  impl_->schedule_seconds.Observe(Seconds(timing.schedule_us));
}

void Metrics::OnFirstToken(int64_t ttft_us) { impl_->ttft.Observe(Seconds(ttft_us)); }

void Metrics::OnMoreTokens(int64_t gap_us, int tokens) {
  for (int i = 0; i < tokens; ++i) impl_->inter_token.Observe(Seconds(gap_us) / tokens);
}

void Metrics::OnFreed(int64_t us) { impl_->cancel_to_free.Observe(Seconds(us)); }

void Metrics::OnRequestDone(const RequestOutcome& outcome) {
  Impl& m = *impl_;
  if (const std::string_view cause = CancellationCause(outcome.reason); !cause.empty()) {
    m.cancellations.Add({{"cause", std::string(cause)}}).Increment();
  }
  if (!outcome.started) {
    if (absl::IsResourceExhausted(outcome.status) || absl::IsUnavailable(outcome.status)) {
      m.rejections.Add({{"reason", std::string(outcome.reason)}}).Increment();
    }
    return;
  }
  const scheduler::RequestStats& stats = outcome.stats;
  m.total.Observe(Seconds(stats.total_us));
  m.queue_time.Observe(Seconds(stats.queue_us));
  m.prompt_length.Observe(stats.prompt_tokens);
  m.output_length.Observe(stats.completion_tokens);
  if (outcome.max_tokens > 0) m.max_tokens_asked.Observe(outcome.max_tokens);
  const auto tenant = m.tokens_of_tenant.find(outcome.tenant);
  Counter& tokens = tenant == m.tokens_of_tenant.end() ? *m.tokens_of_others : *tenant->second;
  tokens.Increment(stats.prompt_tokens + stats.completion_tokens);
  if (stats.completion_tokens == 0) return;
  m.prefill_time.Observe(Seconds(stats.prefill_us));
  m.decode_time.Observe(Seconds(stats.decode_us));
  m.inference_time.Observe(Seconds(stats.prefill_us + stats.decode_us));
  // Choices decode side by side, so the time is shared by those of one choice.
  const double later_tokens = static_cast<double>(stats.completion_tokens) / outcome.n - 1.0;
  if (later_tokens > 0.0) m.per_token.Observe(Seconds(stats.decode_us) / later_tokens);
}

void Metrics::OnGrpcCall(std::string_view method, int code) {
  const bool known = code >= 0 && code < static_cast<int>(kGrpcCodes.size());
  impl_->grpc_calls
      .Add({{"method", std::string(method)}, {"code", known ? kGrpcCodes[code] : "UNKNOWN"}})
      .Increment();
}

void Metrics::Impl::TakeSnapshot(const SchedulerStats& now) {
  waiting.Set(static_cast<double>(scheduler::WaitingRequests(now)));
  paused.Set(static_cast<double>(now.paused));
  running.Set(static_cast<double>(now.running));
  queue_tokens.Set(static_cast<double>(now.queued_prompt_tokens));
  kv_usage.Set(scheduler::KvUsage(now));
  kv_usage_old.Set(scheduler::KvUsage(now));
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (now.blocks_total[g] == 0) continue;
    const int64_t used = now.blocks_used[g];
    const int64_t cached = now.blocks_cached[g];
    const auto set = [&](const char* state, int64_t blocks) {
      kv_blocks.Add({{"group", kGroupNames[g]}, {"state", state}}).Set(static_cast<double>(blocks));
    };
    set("used", used);
    set("cached", cached);
    set("free", now.blocks_total[g] - used - cached);
  }
  const auto advance = [](Counter& counter, int64_t from, int64_t to) {
    counter.Increment(static_cast<double>(to - from));
  };
  advance(prompt_tokens, last.prompt_tokens_total, now.prompt_tokens_total);
  advance(generated_tokens, last.generated_tokens_total, now.generated_tokens_total);
  advance(preemptions, last.preemptions_total, now.preemptions_total);
  advance(prefix_queries, last.prefix_query_tokens_total, now.prefix_query_tokens_total);
  advance(prefix_hits, last.prefix_hit_tokens_total, now.prefix_hit_tokens_total);
  advance(prefix_evicted, last.prefix_evicted_blocks_total, now.prefix_evicted_blocks_total);
  for (int r = 0; r < scheduler::kNumFinishReasons; ++r) {
    advance(finished.Add({{"finished_reason", FinishedReasonLabel(static_cast<FinishReason>(r))}}),
            last.choices_finished_total[r], now.choices_finished_total[r]);
  }
  CountDrafts(scheduler::Between(last.drafts, now.drafts));
  advance(spec_auto_off, last.draft_auto_off_total, now.draft_auto_off_total);
  spec_drafting.Set(static_cast<double>(now.drafting));
  last = now;
}

void Metrics::Impl::CountKvRows() {
  for (const engine::KvGroup group : {engine::kSliding, engine::kFull}) {
    if (!has_kv[group]) continue;
    const kernels::KvEncodeCounts& counts = probe.kv_encoded(group);
    const std::array<const std::array<std::atomic<uint64_t>, 2>*, 3> now = {
        &counts.nonfinite, &counts.clamped, &counts.zero};
    for (size_t what = 0; what < now.size(); ++what) {
      for (int side = 0; side < 2; ++side) {
        const uint64_t count = (*now[what])[side].load(std::memory_order_relaxed);
        uint64_t& seen = last_encoded[what][group][side];
        kv_encoded[what]
            ->Add({{"layer_kind", kGroupNames[group]}, {"side", side == 0 ? "k" : "v"}})
            .Increment(static_cast<double>(count - seen));
        seen = count;
      }
    }
  }
}

void Metrics::Impl::CountDrafts(const scheduler::DraftCounts& more) {
  const auto add = [](Counter& counter, int64_t count) {
    counter.Increment(static_cast<double>(count));
  };
  add(spec_drafts, more.rounds_with_draft);
  add(spec_drafted, more.drafted);
  add(spec_accepted, more.accepted);
  add(spec_rounds, more.rounds);
  add(spec_unused, more.discarded);
  add(spec_failed, more.failed);
  for (int i = 0; i < max_draft_tokens; ++i) {
    const Labels position = {{"position", std::to_string(i)}};
    add(spec_drafted_at.Add(position), more.drafted_at[i]);
    add(spec_accepted_at.Add(position), more.accepted_at[i]);
  }
  // Rounds by the number of their tokens: one more than held.
  std::vector<double> rounds(kDraftBuckets.size() + 1);  // the last one is for infinity
  int64_t at_least = more.rounds_with_draft;
  for (int held = 0; held <= scheduler::kMaxDraftTokens; ++held) {
    const int64_t more_than =
        held < scheduler::kMaxDraftTokens ? more.accepted_at[held] : int64_t{0};
    rounds[held] = static_cast<double>(at_least - more_than);
    at_least = more_than;
  }
  spec_round_tokens.ObserveMultiple(rounds,
                                    static_cast<double>(more.rounds_with_draft + more.accepted));
}

std::string Metrics::Render(const HealthState& health) {
  const std::lock_guard lock(impl_->mutex);
  if (impl_->probe.stats) impl_->TakeSnapshot(impl_->probe.stats());
  if (impl_->probe.kv_encoded) impl_->CountKvRows();
  impl_->heartbeat_age.Set(Seconds(health.HeartbeatAgeUs()));
  const Phase phase = health.phase();
  impl_->draining.Set(phase == Phase::kDraining || phase == Phase::kStopped ? 1 : 0);
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, impl_->registry.Collect());
  return text.str();
}

}  // namespace tandem::server
