// The picture of a benchmark: how TTFT and ITL are distributed, tokens per second over time; and
// over the load, when it was swept.
#pragma once

#include <string>

#include "bench/report_file.h"
#include "bench/svg_chart.h"

namespace tandem::bench {

// The share of `sorted` that is at most x, from 0 to 1, drawn up to the quantile 0.995: beyond, few
// samples would take most of the room. Empty without samples.
std::vector<Point> CumulativePoints(const std::vector<double>& sorted);

// Tokens per second in equal bins of at least 100 ms, at most 120 of them, at the middle of each.
std::vector<Point> RatePoints(const RunResult& run);

std::vector<Chart> ChartsOf(const Report& report);

std::string PlotSvg(const Report& report);

}  // namespace tandem::bench
