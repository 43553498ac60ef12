// The report of `tandem bench model`: a table to paste, or JSON or CSV to compare.
//
// Not here  measuring (bench_measure.h).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "server/cli/bench_measure.h"

namespace tandem::server {

// What has to be known to repeat the run.
struct BenchFacts {
  std::string command_line;
  std::string version;
  std::string commit;
  std::string build;
  std::string date;  // UTC, RFC 3339
  std::string cpu;
  std::string backend;  // Ops::name
  int threads = 0;
  double load = 0.0;  // load average of the last minute, before the run: what else goes on
  std::string model;
  uint64_t parameters = 0;
  uint64_t weight_bytes = 0;
  std::string weight_type;
  std::string kv_type;
};

// The lines and the fields of a report that say so.
std::string FactsText(const BenchFacts& facts);
nlohmann::ordered_json FactsJson(const BenchFacts& facts);

double Median(std::vector<double> values);  // 0 without any

struct TokenRate {
  double median = 0.0;  // tokens per second
  double spread = 0.0;  // half the distance from the slowest to the fastest repetition
};
TokenRate RateOf(const BenchResult& result);

// Median over the repetitions of what was reached over that repetition's yardstick, 0..1; 0 when a
// yardstick is missing.
double BandwidthShareOf(const BenchResult& result);
double MultiplyAddShareOf(const BenchResult& result);

// Seconds of one step at the median.
double StepSeconds(const BenchResult& result);

//   format  "md", "json" or "csv"
std::string BenchReport(const BenchFacts& facts, const std::vector<BenchResult>& results,
                        std::string_view format);

}  // namespace tandem::server
