#include "bench/summary.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tandem::bench {
namespace {

double Ms(int64_t us) { return static_cast<double>(us) / 1e3; }

// Of a stream with tokens.
double TtftMs(const RequestRecord& record) {
  return Ms(record.messages.front().time_us - record.sent_us);
}

// Absent when nothing came after the first message.
std::optional<double> TpotMs(const RequestRecord& record) {
  if (record.messages.size() < 2) return std::nullopt;
  int64_t tokens = 0;
  for (size_t i = 1; i < record.messages.size(); ++i) tokens += record.messages[i].tokens;
  return Ms(record.messages.back().time_us - record.messages.front().time_us) /
         static_cast<double>(tokens);
}

bool IsGood(const RequestRecord& record, const GoodputLimits& limits) {
  if (!record.ok()) return false;
  if (limits.e2e_ms.has_value() && Ms(record.end_us - record.sent_us) > *limits.e2e_ms)
    return false;
  if (limits.ttft_ms.has_value()) {
    if (record.messages.empty() || TtftMs(record) > *limits.ttft_ms) return false;
  }
  if (limits.itl_ms.has_value()) {
    if (record.messages.empty()) return false;
    if (TpotMs(record).value_or(0.0) > *limits.itl_ms) return false;
  }
  return true;
}

std::string OutcomeName(const RequestRecord& record) {
  const std::string code = CodeName(record.code);
  return record.reason.empty() ? code : absl::StrCat(code, " ", record.reason);
}

}  // namespace

absl::StatusOr<GoodputLimits> ParseGoodput(std::string_view text) {
  GoodputLimits limits;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), part.size() + 1));
    const size_t colon = part.find(':');
    const std::string_view name = part.substr(0, colon);
    std::optional<double>* const limit = name == "ttft"  ? &limits.ttft_ms
                                         : name == "itl" ? &limits.itl_ms
                                         : name == "e2e" ? &limits.e2e_ms
                                                         : nullptr;
    double ms = 0.0;
    bool good = limit != nullptr && !limit->has_value() && colon != std::string_view::npos;
    if (good) {
      const std::string_view number = part.substr(colon + 1);
      const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), ms);
      good = error == std::errc() && end == number.data() + number.size() && std::isfinite(ms) &&
             ms > 0;
    }
    if (!good) {
      return absl::InvalidArgumentError(
          absl::StrFormat("'%s' is not a limit; expected ttft:MS, itl:MS and e2e:MS, each at most "
                          "once, separated by "
                          "commas, such as ttft:500,itl:50",
                          std::string(part)));
    }
    *limit = ms;
  }
  return limits;
}

absl::Status CheckGoodput(std::string_view text) { return ParseGoodput(text).status(); }

std::string GoodputText(const GoodputLimits& limits) {
  std::string text;
  const auto add = [&](const char* name, const std::optional<double>& ms) {
    if (!ms.has_value()) return;
    absl::StrAppend(&text, text.empty() ? "" : ",", absl::StrFormat("%s:%.15g", name, *ms));
  };
  add("ttft", limits.ttft_ms);
  add("itl", limits.itl_ms);
  add("e2e", limits.e2e_ms);
  return text;
}

double Quantile(std::span<const double> sorted, double q) {
  if (sorted.empty()) return 0.0;
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  if (below + 1 >= sorted.size()) return sorted.back();
  const double share = at - static_cast<double>(below);
  return sorted[below] + share * (sorted[below + 1] - sorted[below]);
}

Samples SamplesOf(const RunResult& run) {
  Samples samples;
  for (const RequestRecord& record : run.requests) {
    samples.send_lag.push_back(Ms(record.sent_us - record.due_us));
    if (!record.ok()) continue;
    samples.e2e.push_back(Ms(record.end_us - record.sent_us));
    if (record.messages.empty()) continue;
    samples.ttft.push_back(TtftMs(record));
    if (const std::optional<double> tpot = TpotMs(record)) samples.tpot.push_back(*tpot);
    for (size_t i = 1; i < record.messages.size(); ++i) {
      const TokenMessage& message = record.messages[i];
      const double gap_ms = Ms(message.time_us - record.messages[i - 1].time_us);
      samples.itl.insert(samples.itl.end(), message.tokens, gap_ms / message.tokens);
    }
  }
  for (std::vector<double>* each :
       {&samples.ttft, &samples.itl, &samples.tpot, &samples.e2e, &samples.send_lag}) {
    std::sort(each->begin(), each->end());
  }
  return samples;
}

Latency LatencyOf(std::span<const double> sorted) {
  if (sorted.empty()) return {};
  return {.count = sorted.size(),
          .mean = std::accumulate(sorted.begin(), sorted.end(), 0.0) /
                  static_cast<double>(sorted.size()),
          .p50 = Quantile(sorted, 0.5),
          .p90 = Quantile(sorted, 0.9),
          .p99 = Quantile(sorted, 0.99)};
}

Figures Summarize(const RunResult& run, const GoodputLimits& limits) {
  Figures figures;
  int64_t first_us = std::numeric_limits<int64_t>::max();
  int64_t last_us = 0;
  int good = 0;
  for (const RequestRecord& record : run.requests) {
    first_us = std::min(first_us, record.sent_us);
    last_us = std::max(last_us, record.end_us);
    ++(record.ok() ? figures.ok : figures.failed);
    ++figures.outcomes[OutcomeName(record)];
    figures.retries += record.retries;
    figures.input_tokens += record.prompt_tokens;
    figures.cached_input_tokens += record.cached_prompt_tokens;
    figures.output_tokens += record.output_tokens;
    if (IsGood(record, limits)) ++good;
  }
  const auto per_second = [&](double amount) {
    return figures.duration_s > 0 ? amount / figures.duration_s : 0.0;
  };
  if (!run.requests.empty()) figures.duration_s = static_cast<double>(last_us - first_us) / 1e6;
  figures.requests_per_s = per_second(figures.ok);
  figures.output_tokens_per_s = per_second(static_cast<double>(figures.output_tokens));
  figures.total_tokens_per_s =
      per_second(static_cast<double>(figures.input_tokens + figures.output_tokens));
  if (limits.any() && !run.requests.empty()) {
    figures.good_per_s = per_second(good);
    figures.good_share = static_cast<double>(good) / static_cast<double>(run.requests.size());
  }
  figures.cpu_s = run.cpu_s;
  const Samples samples = SamplesOf(run);
  figures.ttft = LatencyOf(samples.ttft);
  figures.itl = LatencyOf(samples.itl);
  figures.tpot = LatencyOf(samples.tpot);
  figures.e2e = LatencyOf(samples.e2e);
  figures.send_lag = LatencyOf(samples.send_lag);
  return figures;
}

std::vector<NamedFigure> FigureList(const Figures& figures) {
  std::vector<NamedFigure> list = {
      {"requests_ok", static_cast<double>(figures.ok)},
      {"requests_failed", static_cast<double>(figures.failed)},
      {"retries", static_cast<double>(figures.retries)},
      {"duration_s", figures.duration_s},
      {"requests_per_s", figures.requests_per_s},
      {"input_tokens", static_cast<double>(figures.input_tokens)},
      {"cached_input_tokens", static_cast<double>(figures.cached_input_tokens)},
      {"output_tokens", static_cast<double>(figures.output_tokens)},
      {"output_tok_per_s", figures.output_tokens_per_s},
      {"total_tok_per_s", figures.total_tokens_per_s},
  };
  if (figures.good_per_s.has_value()) {
    list.push_back({"good_requests_per_s", *figures.good_per_s});
    list.push_back({"good_share", *figures.good_share});
  }
  list.push_back({"client_cpu_s", figures.cpu_s});
  const auto add = [&](const std::string& name, const Latency& latency) {
    if (latency.count == 0) return;
    list.push_back({name + "_ms_mean", latency.mean});
    list.push_back({name + "_ms_p50", latency.p50});
    list.push_back({name + "_ms_p90", latency.p90});
    list.push_back({name + "_ms_p99", latency.p99});
  };
  add("ttft", figures.ttft);
  add("itl", figures.itl);
  add("tpot", figures.tpot);
  add("e2e", figures.e2e);
  add("send_lag", figures.send_lag);
  return list;
}

}  // namespace tandem::bench
