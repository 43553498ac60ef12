// Two benchmarks side by side.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/report_file.h"

namespace tandem::bench {

struct ComparedFigure {
  std::string name;  // as in FigureList
  double a = 0.0;
  double b = 0.0;
  std::optional<double> ratio;  // b / a; absent when a is 0
};

struct ComparedRun {
  std::string label;
  std::vector<ComparedFigure> figures;  // those that both runs have
};

// Runs of the same label; where each has one run only, these, whatever their labels.
//   errors  kInvalidArgument when no run of one is in the other: both lists of labels
absl::StatusOr<std::vector<ComparedRun>> Compare(const Report& a, const Report& b);

}  // namespace tandem::bench
