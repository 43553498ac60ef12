// The report of `tandem bench kv`: what formats save, and what they cost beside bf16.
//
// Not here  measuring (bench_kv_measure.h).
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "engine/step.h"
#include "server/cli/bench_kv_measure.h"
#include "server/cli/bench_report.h"

namespace tandem::server {

struct KvSpeedFacts {
  BenchFacts bench;
  int block_tokens = 0;
  std::array<int, engine::kNumKvGroups> layers = {};  // that store KV
  uint64_t cache_bytes = 0;                           // last level
  std::vector<double> read_bytes_per_s;               // before each test; 0: not measured
};

//   format  "md" or "json"
std::string KvSpeedReport(const KvSpeedFacts& facts, const KvSpeed& speed, std::string_view format);

}  // namespace tandem::server
