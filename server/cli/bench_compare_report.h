// The report of `tandem bench model --compare`: speed and drafts of two sides, pair by pair.
//
// Not here  measuring (bench_compare.h).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/cli/bench_compare.h"
#include "server/cli/bench_report.h"

namespace tandem::server {

struct CompareFacts {
  BenchFacts bench;
  std::string a, b;             // what the sides are set to: "spec-mode=off"
  std::string prompts;          // what was answered, in words
  int max_tokens = 0;           // of an answer
  std::vector<double> chances;  // AssumedAcceptance::chances; empty: acceptance is real
};

// What the machine did besides.
struct CompareYardsticks {
  std::vector<double> read_bytes_per_s;   // by pair; 0: could not be measured
  std::vector<BenchResult> verification;  // of PlanVerification's tests
};

// Throughput of A over that of B, over the pairs.
struct PairRatio {
  double median = 0.0;
  double least = 0.0;
  double most = 0.0;
};
PairRatio RatioOf(const ComparedTest& test);

// A forward of the drafter, median over the pairs.
struct DraftStepFigures {
  double us = 0.0;     // 0: there was none
  double bytes = 0.0;  // weights it reads
  double ratio = 0.0;  // its time over what reading those takes; 0: not known
};
DraftStepFigures DraftStepOf(const std::vector<GenerationRun>& runs,
                             const std::vector<double>& read_bytes_per_s);

//   format  "md", "json" or "csv"
std::string PairsReport(const CompareFacts& facts, const std::vector<ComparedTest>& tests,
                        const CompareYardsticks& yardsticks, std::string_view format);

}  // namespace tandem::server
