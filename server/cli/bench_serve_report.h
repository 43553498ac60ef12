// The reports of `tandem bench serve`: tables to paste, or JSON or CSV to compute with.
//
// Not here  the figures (bench/summary.h); files and pictures (bench/report_file.h, run_plot.h).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bench/compare.h"
#include "bench/report_file.h"

namespace tandem::server {

//   format  "md", "json" or "csv"
std::string BenchServeReport(const bench::Report& report, std::string_view format);

// The same requests once inside the process and once over gRPC, right after each other.
struct TransportPair {
  int stream_interval_tokens = 1;
  bench::RunResult in_process;
  bench::RunResult grpc;
};

// What gRPC costs: per interval the medians over its pairs; the ratio is the median of the pairs'.
struct TransportCost {
  int stream_interval_tokens = 1;
  int pairs = 0;
  double in_process_tok_per_s = 0.0;
  double grpc_tok_per_s = 0.0;
  double ratio = 0.0;       // gRPC over in-process
  double best_ratio = 0.0;  // of the fastest runs: less disturbed by what else the machine does
  double in_process_cpu_us = 0.0;  // CPU time of the process per token
  double grpc_cpu_us = 0.0;
  double in_process_ttft_ms = 0.0;  // p50
  double grpc_ttft_ms = 0.0;
  double in_process_itl_ms = 0.0;  // mean
  double grpc_itl_ms = 0.0;
};
std::vector<TransportCost> TransportCosts(const std::vector<TransportPair>& pairs);

// `report` holds all runs of the pairs.
std::string TransportReport(const bench::Report& report, const std::vector<TransportPair>& pairs,
                            std::string_view format);

//   name_a, name_b  the files
std::string CompareReport(const std::string& name_a, const std::string& name_b,
                          const std::vector<bench::ComparedRun>& runs, std::string_view format);

}  // namespace tandem::server
