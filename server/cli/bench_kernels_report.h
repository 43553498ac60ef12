// The report of `tandem bench kernels`: what each operation moves, how long it takes, and what
// share that is of the copies measured beside it.
//
// Not here  measuring (bench_kernels_measure.h).
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "server/cli/bench_kernels_measure.h"
#include "server/cli/bench_report.h"

namespace tandem::server {

// Bytes per second of the median run, and that over what copying moved; 0..1 where memory decides,
// above 1 where a cache helps.
double BytesPerSecond(const KernelResult& result);
double CopyShare(const KernelResult& result);

//   format  "md", "json" or "csv"
std::string KernelsReport(const BenchFacts& facts, std::span<const KernelResult> results,
                          std::span<const LeftOut> left_out, std::string_view format);

}  // namespace tandem::server
