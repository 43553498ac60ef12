#include "bench/compare.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tandem::bench {
namespace {

std::string Labels(const Report& report) {
  std::string text;
  for (const RunResult& run : report.runs) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", run.label);
  }
  return text;
}

ComparedRun CompareRuns(const std::string& label, const std::vector<NamedFigure>& a,
                        const std::vector<NamedFigure>& b) {
  ComparedRun compared = {.label = label};
  for (const NamedFigure& figure : a) {
    const auto other = std::find_if(b.begin(), b.end(), [&](const NamedFigure& candidate) {
      return candidate.name == figure.name;
    });
    if (other == b.end()) continue;
    compared.figures.push_back({.name = figure.name, .a = figure.value, .b = other->value});
    if (figure.value != 0) compared.figures.back().ratio = other->value / figure.value;
  }
  return compared;
}

}  // namespace

absl::StatusOr<std::vector<ComparedRun>> Compare(const Report& a, const Report& b) {
  const auto figures = [](const Report& report, const RunResult& run) {
    return FigureList(Summarize(run, report.goodput));
  };
  if (a.runs.size() == 1 && b.runs.size() == 1) {
    const std::string& label = a.runs[0].label;
    const std::string both =
        label == b.runs[0].label ? label : absl::StrCat(label, " / ", b.runs[0].label);
    return std::vector<ComparedRun>{
        CompareRuns(both, figures(a, a.runs[0]), figures(b, b.runs[0]))};
  }
  std::vector<ComparedRun> compared;
  for (const RunResult& run : a.runs) {
    const auto other = std::find_if(b.runs.begin(), b.runs.end(), [&](const RunResult& candidate) {
      return candidate.label == run.label;
    });
    if (other == b.runs.end()) continue;
    compared.push_back(CompareRuns(run.label, figures(a, run), figures(b, *other)));
  }
  if (compared.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the files have no run in common: one has ",
                                                   Labels(a), "; the other ", Labels(b)));
  }
  return compared;
}

}  // namespace tandem::bench
