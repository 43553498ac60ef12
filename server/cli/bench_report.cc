#include "server/cli/bench_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "server/cli/format.h"
#include "server/cli/text_table.h"

namespace tandem::server {
namespace {

// The figures of one test.
struct Figures {
  TokenRate rate;
  double step_s = 0.0;
  double weight_bytes_per_token = 0.0;
  double multiply_adds_per_token = 0.0;
  double bandwidth_share = 0.0;     // 0..1; 0 without a probe
  double multiply_add_share = 0.0;  // likewise
};

Figures FiguresOf(const BenchResult& result) {
  const int tokens = result.test.tokens();
  return {.rate = RateOf(result),
          .step_s = StepSeconds(result),
          .weight_bytes_per_token = result.weight_bytes / tokens,
          .multiply_adds_per_token = result.multiply_adds / tokens,
          .bandwidth_share = BandwidthShareOf(result),
          .multiply_add_share = MultiplyAddShareOf(result)};
}

// Median over the repetitions of `amount` per second over the yardstick.
double ShareOf(const BenchResult& result, double amount, double Yardstick::*yardstick) {
  std::vector<double> shares;
  for (size_t i = 0; i < result.seconds.size(); ++i) {
    const double best = result.yardsticks[i].*yardstick;
    if (best <= 0) return 0.0;
    shares.push_back(amount / result.seconds[i] / best);
  }
  return Median(shares);
}

// "50.1 to 83.9" over all repetitions of all tests, in units of 1e9.
std::string YardstickRange(const std::vector<BenchResult>& results, double Yardstick::*yardstick) {
  std::vector<double> values;
  for (const BenchResult& result : results) {
    for (const Yardstick& each : result.yardsticks) values.push_back(each.*yardstick / 1e9);
  }
  if (values.empty()) return "?";
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return absl::StrFormat("%.1f to %.1f", *least, *most);
}

std::string ShareText(double share) {
  return share > 0 ? absl::StrFormat("%.1f %%", share * 100) : "?";
}

// "a step of tg64 takes 1.9 times as long with 16 streams as with 1 (98.1 ms, 51.2 ms)"
std::vector<std::string> StepCosts(const std::vector<BenchResult>& results) {
  std::vector<std::string> lines;
  for (const BenchResult& one : results) {
    if (one.test.prompt_tokens > 0 || one.test.streams != 1) continue;
    for (const BenchResult& many : results) {
      if (many.test.generate_tokens != one.test.generate_tokens || many.test.streams == 1) continue;
      std::vector<double> ratios;
      for (size_t i = 0; i < one.seconds.size(); ++i) {
        ratios.push_back(many.seconds[i] / many.steps / (one.seconds[i] / one.steps));
      }
      lines.push_back(absl::StrFormat(
          "A step of tg%d takes %.2f times as long with %d streams as with 1 (%.1f ms, %.1f ms).",
          one.test.generate_tokens, Median(ratios), many.test.streams, StepSeconds(many) * 1e3,
          StepSeconds(one) * 1e3));
    }
  }
  return lines;
}

std::string Markdown(const BenchFacts& facts, const std::vector<BenchResult>& results) {
  TextTable table = {.columns = {{"model"},
                                 {"weights"},
                                 {"KV"},
                                 {"threads", true},
                                 {"test"},
                                 {"tok/s", true},
                                 {"MB/token", true},
                                 {"read bandwidth", true},
                                 {"multiply-adds", true}}};
  for (const BenchResult& result : results) {
    const Figures figures = FiguresOf(result);
    table.rows.push_back(
        {facts.model, facts.weight_type + " " + BytesText(static_cast<double>(facts.weight_bytes)),
         facts.kv_type, std::to_string(facts.threads), TestName(result.test),
         absl::StrFormat("%.2f ± %.2f", figures.rate.median, figures.rate.spread),
         absl::StrFormat("%.1f", figures.weight_bytes_per_token / 1e6),
         ShareText(figures.bandwidth_share), ShareText(figures.multiply_add_share)});
  }
  std::string text = MarkdownText(table) + "\n";
  for (const std::string& line : StepCosts(results)) text += line + "\n";
  text += absl::StrFormat(
      "tok/s: median of %d runs over all streams ± half of slowest to fastest. MB/token: weights "
      "read (10^6 bytes), without KV.\n"
      "Shares: median over the runs, each held against what was measured right before it: reading "
      "%s GB/s,\nmultiply-adds (attention counted) %s G/s. Tests ran in turn; ratios are medians "
      "of "
      "pairs.\n",
      results.empty() ? 0 : static_cast<int>(results[0].seconds.size()),
      YardstickRange(results, &Yardstick::read_bytes_per_s),
      YardstickRange(results, &Yardstick::multiply_adds_per_s));
  text += "\n" + FactsText(facts);
  return text;
}

std::string Json(const BenchFacts& facts, const std::vector<BenchResult>& results) {
  nlohmann::ordered_json json = FactsJson(facts);
  json["tests"] = nlohmann::ordered_json::array();
  for (const BenchResult& result : results) {
    const Figures figures = FiguresOf(result);
    json["tests"].push_back({{"test", TestName(result.test)},
                             {"prompt_tokens", result.test.prompt_tokens},
                             {"generate_tokens", result.test.generate_tokens},
                             {"streams", result.test.streams},
                             {"tok_per_s", figures.rate.median},
                             {"tok_per_s_spread", figures.rate.spread},
                             {"step_ms", figures.step_s * 1e3},
                             {"steps", result.steps},
                             {"weight_bytes_per_token", figures.weight_bytes_per_token},
                             {"multiply_adds_per_token", figures.multiply_adds_per_token},
                             {"read_bandwidth_share", figures.bandwidth_share},
                             {"multiply_add_share", figures.multiply_add_share},
                             {"seconds", result.seconds}});
    for (const Yardstick& each : result.yardsticks) {
      json["tests"].back()["read_bytes_per_s"].push_back(each.read_bytes_per_s);
      json["tests"].back()["multiply_adds_per_s"].push_back(each.multiply_adds_per_s);
    }
  }
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string Csv(const BenchFacts& facts, const std::vector<BenchResult>& results) {
  TextTable table;
  for (const char* title :
       {"model", "weight_type", "weight_bytes", "kv_type", "threads", "test", "streams",
        "tok_per_s", "tok_per_s_spread", "step_ms", "weight_bytes_per_token",
        "multiply_adds_per_token", "read_bandwidth_share", "multiply_add_share", "backend", "cpu",
        "commit", "date", "command_line"}) {
    table.columns.push_back({title});
  }
  const auto number = [](double x) { return absl::StrFormat("%.6g", x); };
  for (const BenchResult& result : results) {
    const Figures figures = FiguresOf(result);
    table.rows.push_back(
        {facts.model, facts.weight_type, std::to_string(facts.weight_bytes), facts.kv_type,
         std::to_string(facts.threads), TestName(result.test), std::to_string(result.test.streams),
         number(figures.rate.median), number(figures.rate.spread), number(figures.step_s * 1e3),
         number(figures.weight_bytes_per_token), number(figures.multiply_adds_per_token),
         number(figures.bandwidth_share), number(figures.multiply_add_share), facts.backend,
         facts.cpu, facts.commit, facts.date, facts.command_line});
  }
  return CsvText(table);
}

}  // namespace

std::string FactsText(const BenchFacts& facts) {
  return absl::StrFormat(
      "`%s`  \n%s %s (%s)  \n%s, %s, load average %.1f before  \n%s, %s parameters  \n%s\n",
      facts.command_line, facts.version, facts.commit, facts.build, facts.cpu, facts.backend,
      facts.load, facts.model, ParametersText(facts.parameters), facts.date);
}

nlohmann::ordered_json FactsJson(const BenchFacts& facts) {
  return {{"command_line", facts.command_line},
          {"version", facts.version},
          {"commit", facts.commit},
          {"build", facts.build},
          {"date", facts.date},
          {"cpu", facts.cpu},
          {"backend", facts.backend},
          {"threads", facts.threads},
          {"load_average", facts.load},
          {"model", facts.model},
          {"parameters", facts.parameters},
          {"weight_type", facts.weight_type},
          {"weight_bytes", facts.weight_bytes},
          {"kv_type", facts.kv_type}};
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

TokenRate RateOf(const BenchResult& result) {
  std::vector<double> rates;
  for (const double seconds : result.seconds) rates.push_back(result.test.tokens() / seconds);
  const auto [slowest, fastest] = std::minmax_element(rates.begin(), rates.end());
  return {.median = Median(rates), .spread = (*fastest - *slowest) / 2};
}

double BandwidthShareOf(const BenchResult& result) {
  return ShareOf(result, result.weight_bytes, &Yardstick::read_bytes_per_s);
}

double MultiplyAddShareOf(const BenchResult& result) {
  return ShareOf(result, result.multiply_adds, &Yardstick::multiply_adds_per_s);
}

double StepSeconds(const BenchResult& result) { return Median(result.seconds) / result.steps; }

std::string BenchReport(const BenchFacts& facts, const std::vector<BenchResult>& results,
                        std::string_view format) {
  if (format == "json") return Json(facts, results);
  if (format == "csv") return Csv(facts, results);
  return Markdown(facts, results);
}

}  // namespace tandem::server
