#include "server/grpc/params_parser.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "server/grpc/request_errors.h"

namespace tandem::server {
namespace {

using Mode = scheduler::Speculation::Mode;

constexpr float kMinTemperature = 0.01f;  // below, the distribution is greedy but for rounding
constexpr float kBan = -100.0f;           // a bias this low is a ban
constexpr int kMaxBiases = 1024;
constexpr int kMaxBanned = 1024;
constexpr int kMaxAllowed = 4096;
constexpr int kMaxStops = 16;
constexpr size_t kMaxStopBytes = 256;
constexpr int kMaxStopIds = 64;
constexpr uint32_t kMaxTop = 20;
constexpr uint32_t kMaxIntervalMs = 1000;
constexpr int kMaxPriority = 100;
constexpr size_t kMaxNameBytes = 128;
constexpr size_t kMaxGrammarBytes = 64 << 10;
constexpr int kMaxGuidedChoices = 256;

// Collects the first thing wrong with a message; later checks then do nothing.
class Checker {
 public:
  const absl::Status& status() const { return status_; }

  void Require(bool good, std::string_view field, const std::string& problem) {
    if (status_.ok() && !good) status_ = BadParameter(field, problem);
  }
  // `range` names the bounds in words; NaN is never inside.
  void Number(std::string_view field, float value, bool inside, const char* range) {
    Require(std::isfinite(value) && inside, field,
            absl::StrCat("is ", value, "; it must be ", range));
  }
  void AtMost(std::string_view field, uint64_t value, uint64_t limit) {
    Require(value <= limit, field, absl::StrCat("is ", value, "; it must be at most ", limit));
  }
  void Count(std::string_view field, int count, int limit) {
    Require(count <= limit, field, absl::StrCat("has ", count, " entries; the limit is ", limit));
  }
  void Check(const absl::Status& status) { status_.Update(status); }

 private:
  absl::Status status_;
};

// Ids of a repeated field, each checked.
std::vector<int32_t> TokenIds(const google::protobuf::RepeatedField<uint32_t>& ids,
                              std::string_view field, int vocab_size, Checker& checker) {
  std::vector<int32_t> out;
  out.reserve(ids.size());
  for (int i = 0; i < ids.size() && checker.status().ok(); ++i) {
    checker.Check(CheckTokenId(field, i, ids[i], vocab_size));
    out.push_back(static_cast<int32_t>(ids[i]));
  }
  return out;
}

// What metadata x-tandem-spec asks for.
struct SpecHeader {
  std::optional<Mode> mode;
  std::optional<int> max_draft_tokens;
};

SpecHeader ParseSpecHeader(std::string_view text, Checker& checker) {
  constexpr std::string_view kFixed = "fixed:";
  if (text == "off") return {.mode = Mode::kOff};
  if (text == "auto") return {.mode = Mode::kAuto};
  int tokens = -1;
  if (text.starts_with(kFixed)) {
    const std::string_view number = text.substr(kFixed.size());
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), tokens);
    if (error != std::errc() || end != number.data() + number.size()) tokens = -1;
  }
  checker.Require(
      tokens >= 0 && tokens <= scheduler::kMaxDraftTokens, "metadata x-tandem-spec",
      absl::StrCat("is ", Printable(text), "; it must be off, auto, or fixed:<n> with n 0 to ",
                   scheduler::kMaxDraftTokens));
  return {.mode = Mode::kFixed, .max_draft_tokens = tokens};
}

// Whether bans leave anything of what is allowed.
bool LeavesNothing(const engine::SamplingParams& sampling, int vocab_size) {
  absl::flat_hash_set<int32_t> bans(sampling.banned.begin(), sampling.banned.end());
  for (const auto& [id, bias] : sampling.logit_bias) {
    if (bias <= kBan) bans.insert(id);
  }
  if (sampling.allowed.empty()) return static_cast<int>(bans.size()) >= vocab_size;
  return std::all_of(sampling.allowed.begin(), sampling.allowed.end(),
                     [&](int32_t id) { return bans.contains(id); });
}

}  // namespace

absl::Status CheckBytes(std::string_view field, std::string_view value, size_t max_bytes) {
  if (value.size() <= max_bytes) return absl::OkStatus();
  return BadParameter(field,
                      absl::StrCat("has ", value.size(), " bytes; the limit is ", max_bytes));
}

absl::Status CheckTokenId(std::string_view field, int index, uint32_t id, int vocab_size) {
  if (id < static_cast<uint32_t>(vocab_size)) return absl::OkStatus();
  std::string path(field);
  if (index >= 0) path += absl::StrCat("[", index, "]");
  return BadField(path, "BAD_TOKEN_ID",
                  absl::StrCat("is ", id, "; the vocabulary has ", vocab_size, " ids"));
}

absl::Status ParseSampling(const v1::SamplingParams& params, const ServedModel& model,
                           const RequestLimits& limits, uint64_t random_seed,
                           GenerationSpec& spec) {
  Checker checker;
  engine::SamplingParams& out = spec.request.sampling;
  out = model.default_sampling;
  if (params.has_temperature()) {
    const float t = params.temperature();
    checker.Number("sampling.temperature", t, t >= 0 && t <= 10, "0 to 10");
    out.temperature = t > 0 ? std::max(t, kMinTemperature) : 0.0f;
  }
  if (params.has_top_p()) {
    out.top_p = params.top_p();
    checker.Number("sampling.top_p", out.top_p, out.top_p > 0 && out.top_p <= 1,
                   "above 0 and at most 1");
  }
  if (params.has_top_k()) {
    checker.Require(params.top_k() >= -1, "sampling.top_k",
                    absl::StrCat("is ", params.top_k(), "; it must be -1 or 0 (off), or 1 and up"));
    out.top_k = std::clamp(params.top_k(), 0, model.vocab_size);
  }
  if (params.has_min_p()) {
    out.min_p = params.min_p();
    checker.Number("sampling.min_p", out.min_p, out.min_p >= 0 && out.min_p <= 1, "0 to 1");
  }
  if (params.has_repetition_penalty()) {
    out.repetition_penalty = params.repetition_penalty();
    checker.Number("sampling.repetition_penalty", out.repetition_penalty,
                   out.repetition_penalty > 0 && out.repetition_penalty <= 10,
                   "above 0 and at most 10");
  }
  if (params.has_frequency_penalty()) {
    out.frequency_penalty = params.frequency_penalty();
    checker.Number("sampling.frequency_penalty", out.frequency_penalty,
                   std::abs(out.frequency_penalty) <= 2, "-2 to 2");
  }
  if (params.has_presence_penalty()) {
    out.presence_penalty = params.presence_penalty();
    checker.Number("sampling.presence_penalty", out.presence_penalty,
                   std::abs(out.presence_penalty) <= 2, "-2 to 2");
  }
  out.seed = params.has_seed() ? params.seed() : random_seed;
  if (params.has_n()) {
    const uint32_t n = params.n();
    checker.Require(n >= 1 && n <= static_cast<uint32_t>(limits.max_n), "sampling.n",
                    absl::StrCat("is ", n, "; it must be 1 to ", limits.max_n));
    spec.request.n = static_cast<int>(std::min<uint32_t>(n, limits.max_n));
  }

  checker.Count("sampling.logit_bias", static_cast<int>(params.logit_bias_size()), kMaxBiases);
  checker.Count("sampling.banned_token_ids", params.banned_token_ids_size(), kMaxBanned);
  checker.Count("sampling.allowed_token_ids", params.allowed_token_ids_size(), kMaxAllowed);
  if (!checker.status().ok()) return checker.status();
  for (const auto& [id, bias] : params.logit_bias()) {
    checker.Check(CheckTokenId("sampling.logit_bias", -1, id, model.vocab_size));
    checker.Number(absl::StrCat("sampling.logit_bias[", id, "]"), bias, std::abs(bias) <= 100,
                   "-100 to 100");
    out.logit_bias.emplace_back(static_cast<int32_t>(id), bias);
  }
  std::sort(out.logit_bias.begin(), out.logit_bias.end());  // maps have no order
  out.banned =
      TokenIds(params.banned_token_ids(), "sampling.banned_token_ids", model.vocab_size, checker);
  out.allowed =
      TokenIds(params.allowed_token_ids(), "sampling.allowed_token_ids", model.vocab_size, checker);
  checker.Require(!LeavesNothing(out, model.vocab_size), "sampling.allowed_token_ids",
                  "leaves nothing to draw: every allowed id is banned as well");
  return checker.status();
}

absl::Status ParseOutput(const v1::OutputOptions& options, GenerationSpec& spec,
                         ReportOptions& report) {
  Checker checker;
  checker.AtMost("output.logprobs", options.logprobs(), kMaxTop);
  checker.AtMost("output.prompt_logprobs", options.prompt_logprobs(), kMaxTop);
  checker.AtMost("output.stream_interval_ms", options.stream_interval_ms(), kMaxIntervalMs);
  checker.Require(v1::LogprobsMode_IsValid(options.logprobs_mode()), "output.logprobs_mode",
                  absl::StrCat("is ", options.logprobs_mode(), ", which is no LogprobsMode"));
  if (!checker.status().ok()) return checker.status();
  spec.request.logprobs = {.enabled = options.has_logprobs(),
                           .top = static_cast<int>(options.logprobs()),
                           .processed = options.logprobs_mode() == v1::LOGPROBS_PROCESSED};
  // Nothing is drawn from the distributions of the prompt, so there is only the model's own.
  spec.request.prompt_logprobs = {.enabled = options.has_prompt_logprobs(),
                                  .top = static_cast<int>(options.prompt_logprobs()),
                                  .processed = false};
  if (options.has_text()) spec.text = options.text();
  if (options.has_skip_special_tokens()) spec.skip_special_tokens = options.skip_special_tokens();
  spec.stream_interval_tokens =
      static_cast<int>(std::clamp<uint32_t>(options.stream_interval_tokens(), 1, 1 << 30));
  spec.stream_interval_ms = static_cast<int>(options.stream_interval_ms());
  if (options.has_token_ids()) report.token_ids = options.token_ids();
  report.speculative_stats = options.speculative_stats();
  report.timing = options.timing();
  report.prompt_token_ids = options.echo_prompt_token_ids();
  return absl::OkStatus();
}

absl::Status ParseStopping(const v1::StoppingParams& params, const ServedModel& model,
                           GenerationSpec& spec) {
  Checker checker;
  scheduler::StopParams& out = spec.request.stop;
  const auto context = static_cast<uint32_t>(model.context_length);
  out.max_tokens = -1;
  uint32_t most = context;
  if (params.has_max_tokens()) {
    most = params.max_tokens();
    checker.AtMost("stopping.max_tokens", most, context);
    checker.Require(most > 0 || spec.request.prompt_logprobs.enabled, "stopping.max_tokens",
                    "is 0, which only scores the prompt; set output.prompt_logprobs or ask for at "
                    "least 1 token");
    out.max_tokens = static_cast<int>(std::min(most, context));
  }
  checker.AtMost("stopping.min_tokens", params.min_tokens(), most);
  out.min_tokens = static_cast<int>(std::min(params.min_tokens(), context));

  checker.Count("stopping.stop", params.stop_size(), kMaxStops);
  checker.Require(spec.text || params.stop().empty(), "stopping.stop",
                  "is set while output.text is false; stop strings are looked for in text");
  for (int i = 0; i < params.stop_size() && checker.status().ok(); ++i) {
    const std::string& stop = params.stop(i);
    checker.Require(!stop.empty() && stop.size() <= kMaxStopBytes,
                    absl::StrCat("stopping.stop[", i, "]"),
                    absl::StrCat("has ", stop.size(), " bytes; it must have 1 to ", kMaxStopBytes));
    spec.stop.push_back(stop);
  }
  checker.Count("stopping.stop_token_ids", params.stop_token_ids_size(), kMaxStopIds);
  out.stop_ids =
      TokenIds(params.stop_token_ids(), "stopping.stop_token_ids", model.vocab_size, checker);
  if (!params.ignore_eos()) out.eos_ids = model.eos_ids;
  spec.include_stop = params.include_stop();
  out.time_limit_us = int64_t{params.time_limit_ms()} * 1000;
  return checker.status();
}

absl::Status ParseScheduling(const v1::SchedulingParams& params, const RequestLimits& limits,
                             GenerationSpec& spec) {
  Checker checker;
  checker.Require(params.priority() >= -kMaxPriority && params.priority() <= kMaxPriority,
                  "scheduling.priority",
                  absl::StrCat("is ", params.priority(), "; it must be -100 to 100"));
  checker.Check(CheckBytes("scheduling.tenant", params.tenant(), kMaxNameBytes));
  if (!checker.status().ok()) return checker.status();
  spec.request.priority = params.priority();
  spec.request.reject_if_queued = params.reject_if_queued();
  if (!params.tenant().empty()) spec.request.tenant = params.tenant();
  const int64_t timeout_us = params.queue_timeout_ms() > 0
                                 ? int64_t{params.queue_timeout_ms()} * 1000
                                 : limits.default_queue_timeout_us;
  if (timeout_us > 0) spec.request.queue_timeout_us = spec.request.arrival_us + timeout_us;
  return absl::OkStatus();
}

absl::Status ParseSpeculative(const v1::SpeculativeParams& params,
                              std::optional<std::string_view> header, const ServedModel& model,
                              GenerationSpec& spec) {
  Checker checker;
  SpecHeader asked;
  if (header.has_value()) asked = ParseSpecHeader(*header, checker);
  checker.Require(v1::SpeculativeParams::Mode_IsValid(params.mode()), "speculative.mode",
                  absl::StrCat("is ", params.mode(), ", which is no SpeculativeParams.Mode"));
  checker.Require(
      v1::SpeculativeParams::Acceptance_IsValid(params.acceptance()), "speculative.acceptance",
      absl::StrCat("is ", params.acceptance(), ", which is no SpeculativeParams.Acceptance"));
  checker.AtMost("speculative.max_draft_tokens", params.max_draft_tokens(),
                 scheduler::kMaxDraftTokens);
  const float confidence = params.min_draft_confidence();
  checker.Number("speculative.min_draft_confidence", confidence, confidence >= 0 && confidence < 1,
                 "0 up to, not including, 1");
  if (params.acceptance() == v1::SpeculativeParams::REJECTION_SAMPLING) {
    checker.Check(Unsupported("speculative.acceptance=REJECTION_SAMPLING"));
  }
  if (confidence > 0) checker.Check(Unsupported("speculative.min_draft_confidence"));
  if (params.require() && !model.drafter.has_value()) checker.Check(DrafterUnavailable());
  if (!checker.status().ok()) return checker.status();

  scheduler::Speculation& out = spec.request.speculation;
  out = {.mode = Mode::kOff, .max_draft_tokens = 0};
  if (!model.drafter.has_value()) return absl::OkStatus();
  out = {.mode = asked.mode.value_or(model.drafter->default_mode),
         .max_draft_tokens = asked.max_draft_tokens.value_or(model.drafter->max_draft_tokens)};
  switch (params.mode()) {
    case v1::SpeculativeParams::AUTO:
      out.mode = Mode::kAuto;
      break;
    case v1::SpeculativeParams::OFF:
      out.mode = Mode::kOff;
      break;
    case v1::SpeculativeParams::FIXED:
      out.mode = Mode::kFixed;
      break;
    default:
      break;
  }
  if (params.has_max_draft_tokens()) {
    out.max_draft_tokens = static_cast<int>(params.max_draft_tokens());
  }
  out.max_draft_tokens = std::min(out.max_draft_tokens, model.drafter->max_draft_tokens);
  if (out.max_draft_tokens == 0) out.mode = Mode::kOff;
  return absl::OkStatus();
}

absl::Status ParseCache(const v1::CacheParams& params, GenerationSpec& spec) {
  absl::Status good = CheckBytes("cache.salt", params.salt(), kMaxNameBytes);
  if (!good.ok()) return good;
  spec.request.prefix_cache = {
      .read = !params.no_read(), .write = !params.no_write(), .salt = params.salt()};
  return absl::OkStatus();
}

absl::Status CheckGuided(const v1::GuidedDecoding& guided) {
  Checker checker;
  checker.Check(CheckBytes("guided.json_schema", guided.json_schema(), kMaxGrammarBytes));
  checker.Check(CheckBytes("guided.regex", guided.regex(), kMaxGrammarBytes));
  checker.Check(CheckBytes("guided.ebnf", guided.ebnf(), kMaxGrammarBytes));
  checker.Check(
      CheckBytes("guided.whitespace_pattern", guided.whitespace_pattern(), kMaxGrammarBytes));
  checker.Count("guided.choice", guided.choice().choices_size(), kMaxGuidedChoices);
  checker.Check(Unsupported("guided"));
  return checker.status();
}

}  // namespace tandem::server
