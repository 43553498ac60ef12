// The report of `tandem bench kv-quality`: how far the words of a model move with each KV format.
//
// Not here  measuring (kv_quality.h), drawing (bench/kv_plot.h).
#pragma once

#include <string>
#include <string_view>

#include "server/cli/bench_report.h"
#include "server/cli/kv_quality.h"

namespace tandem::server {

struct QualityFacts {
  BenchFacts bench;
  std::string prompts;  // what was answered, in words
  int max_tokens = 0;   // of an answer
  int block_tokens = 0;
};

//   format  "md" or "json"
std::string QualityReport(const QualityFacts& facts, const QualityResult& result,
                          std::string_view format);

// Bytes per token against mean divergence as an SVG. f32, where it was measured, stands for the
// reference: its divergence is the reference's own, at the reference's bytes.
std::string QualityPlot(const QualityFacts& facts, const QualityResult& result);

}  // namespace tandem::server
