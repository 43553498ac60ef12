#include "bench/run_plot.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tandem::bench {
namespace {

constexpr int kCumulativeSteps = 200;
constexpr double kLastQuantile = 0.995;
constexpr int kMaxBins = 120;
constexpr int64_t kLeastBinUs = 100'000;

}  // namespace

std::vector<Point> CumulativePoints(const std::vector<double>& sorted) {
  std::vector<Point> points;
  if (sorted.empty()) return points;
  for (int i = 0; i <= kCumulativeSteps; ++i) {
    const double q = kLastQuantile * i / kCumulativeSteps;
    points.push_back({.x = Quantile(sorted, q), .y = q});
  }
  return points;
}

std::vector<Point> RatePoints(const RunResult& run) {
  std::vector<TokenMessage> messages;
  for (const RequestRecord& record : run.requests) {
    messages.insert(messages.end(), record.messages.begin(), record.messages.end());
    if (record.messages.empty() && record.output_tokens > 0) {  // a unary call's come at its end
      messages.push_back({.time_us = record.end_us, .tokens = record.output_tokens});
    }
  }
  int64_t last_us = 0;
  for (const TokenMessage& message : messages) last_us = std::max(last_us, message.time_us);
  if (last_us == 0) return {};
  const int64_t bin_us = std::max(kLeastBinUs, (last_us + kMaxBins - 1) / kMaxBins);
  std::vector<int64_t> tokens(static_cast<size_t>(last_us / bin_us) + 1);
  for (const TokenMessage& message : messages) {
    tokens[static_cast<size_t>(std::max<int64_t>(0, message.time_us) / bin_us)] += message.tokens;
  }
  // The last bin ends before its time and would look like a drop.
  if (tokens.size() > 1) tokens.pop_back();
  const double bin_s = static_cast<double>(bin_us) / 1e6;
  std::vector<Point> points;
  for (size_t i = 0; i < tokens.size(); ++i) {
    points.push_back(
        {.x = (static_cast<double>(i) + 0.5) * bin_s, .y = static_cast<double>(tokens[i]) / bin_s});
  }
  return points;
}

std::vector<Chart> ChartsOf(const Report& report) {
  Chart ttft = {
      .title = "Time to first token", .x_label = "TTFT, ms", .y_label = "share of requests"};
  Chart itl = {.title = "Time between tokens", .x_label = "ITL, ms", .y_label = "share of tokens"};
  Chart rate = {.title = "Tokens generated",
                .x_label = "time, s",
                .y_label = "tokens per second",
                .wide = true};
  Chart latency_over_load = {
      .title = "Latency under load", .x_label = "streams at a time", .y_label = "ms"};
  Chart rate_over_load = {.title = "Throughput under load",
                          .x_label = "streams at a time",
                          .y_label = "tokens per second"};
  Series ttft_p50 = {.name = "TTFT p50"};
  Series itl_p99 = {.name = "ITL p99"};
  Series throughput = {.name = "tokens per second"};
  bool swept = report.runs.size() > 1;
  for (const RunResult& run : report.runs) {
    const Samples samples = SamplesOf(run);
    ttft.series.push_back({.name = run.label, .points = CumulativePoints(samples.ttft)});
    itl.series.push_back({.name = run.label, .points = CumulativePoints(samples.itl)});
    rate.series.push_back({.name = run.label, .points = RatePoints(run)});
    const Figures figures = Summarize(run, report.goodput);
    const double load = run.concurrency;
    swept = swept && run.concurrency > 0;
    if (!throughput.points.empty() && load <= throughput.points.back().x) swept = false;
    throughput.points.push_back({.x = load, .y = figures.output_tokens_per_s});
    ttft_p50.points.push_back({.x = load, .y = figures.ttft.p50});
    itl_p99.points.push_back({.x = load, .y = figures.itl.p99});
  }
  std::vector<Chart> charts = {ttft, itl, rate};
  if (swept) {
    rate_over_load.series = {throughput};
    latency_over_load.series = {ttft_p50, itl_p99};
    charts.push_back(rate_over_load);
    charts.push_back(latency_over_load);
  }
  return charts;
}

std::string PlotSvg(const Report& report) {
  const ReportFacts& facts = report.facts;
  return RenderSvg(absl::StrCat("tandem bench serve: ", facts.model),
                   {facts.workload,
                    absl::StrCat(facts.server_version, " (", facts.server_commit, "), ",
                                 facts.device, ", ", facts.date),
                    facts.command_line},
                   ChartsOf(report));
}

}  // namespace tandem::bench
