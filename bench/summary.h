// The figures of a run, from its records.
//
//   TTFT  sent to first message with a token
//   ITL   gaps between messages; a message of k tokens after a gap g counts as k gaps of g / k, as
//         in the server's own metric
//   TPOT  of one request: first token to last token, over the tokens after the first message
//   e2e   sent to the status
// Latencies are of the requests that ended OK; throughput counts every token that came.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/records.h"

namespace tandem::bench {

// Upper bounds that a good request keeps; ITL means its mean.
struct GoodputLimits {
  std::optional<double> ttft_ms;
  std::optional<double> itl_ms;
  std::optional<double> e2e_ms;

  bool any() const { return ttft_ms.has_value() || itl_ms.has_value() || e2e_ms.has_value(); }
  bool operator==(const GoodputLimits&) const = default;
};
// "ttft:500,itl:50,e2e:10000", each at most once, in any order; empty: no limits.
//   errors  kInvalidArgument with the part that is wrong
absl::StatusOr<GoodputLimits> ParseGoodput(std::string_view text);
absl::Status CheckGoodput(std::string_view text);
// The text that ParseGoodput reads.
std::string GoodputText(const GoodputLimits& limits);

// Linear between the two nearest of the sorted samples, as NumPy does by default; 0 of none.
//   q  in [0, 1]
double Quantile(std::span<const double> sorted, double q);

// What quantiles are taken of, in milliseconds; sorted.
struct Samples {
  std::vector<double> ttft;
  std::vector<double> itl;
  std::vector<double> tpot;
  std::vector<double> e2e;
  std::vector<double> send_lag;  // sent after it was due: large values say the client was too slow
};
Samples SamplesOf(const RunResult& run);

struct Latency {  // milliseconds
  size_t count = 0;
  double mean = 0.0, p50 = 0.0, p90 = 0.0, p99 = 0.0;
};
Latency LatencyOf(std::span<const double> sorted);

struct Figures {
  int ok = 0;
  int failed = 0;
  int retries = 0;
  std::map<std::string, int> outcomes;  // "OK", "RESOURCE_EXHAUSTED QUEUE_FULL"
  double duration_s = 0.0;              // first sent to last ended
  double requests_per_s = 0.0;          // that ended OK
  int64_t input_tokens = 0;
  int64_t cached_input_tokens = 0;  // of them, found in the server's prefix cache
  int64_t output_tokens = 0;
  double output_tokens_per_s = 0.0;
  double total_tokens_per_s = 0.0;   // input and output
  std::optional<double> good_per_s;  // requests that kept all limits, if there are any
  std::optional<double> good_share;  // of all requests, 0..1
  double cpu_s = 0.0;                // RunResult::cpu_s
  Latency ttft, itl, tpot, e2e, send_lag;
};
Figures Summarize(const RunResult& run, const GoodputLimits& limits);

// The same as a flat list, in the order of reports: "output_tok_per_s", "ttft_ms_p50", ... What a
// run has not (TTFT of unary calls, goodput without limits) is missing.
struct NamedFigure {
  std::string name;
  double value = 0.0;
};
std::vector<NamedFigure> FigureList(const Figures& figures);

}  // namespace tandem::bench
