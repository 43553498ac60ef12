// Times what KV formats cost: encoding rows into blocks and attending to them, layer by layer as in
// a step, without a model's weights.
//
// Every time is measured in pairs with bf16, in turn A, B, B, A: a machine's speed drifts, so only
// the ratios of pairs are held against a figure. The two have stores of their own, with the layout
// that a server would give them, full of random rows in scattered blocks.
//
//   encode     norm, rotary embedding and storing of a chunk of kEncodeRows rows, queries' share
//              included
//   attention  one row of each sequence over its visible positions, in every layer that stores KV,
//              one layer after the other
// Not here  which formats (server/config/bench_kv_options.h), the report (bench_kv_report.h).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "engine/step.h"
#include "kernels/ops.h"
#include "server/config/bench_kv_options.h"

namespace tandem::server {

constexpr int kEncodeRows = 256;

// Sequences that decode together over so many positions.
struct KvTest {
  engine::KvGroup group = engine::kSliding;
  std::vector<int> contexts;  // for which this is the test: a window cuts longer ones to itself
  int visible = 0;            // positions that a row sees
  int sequences = 0;
};

// Seconds of one token in every layer of its group that stores KV, by pair.
struct PairTimes {
  std::vector<double> format, bf16;  // of the two runs of a pair together, halved

  std::vector<double> Ratios() const;  // format / bf16
};

struct KvGroupSpeed {
  double bytes_per_token = 0.0;  // of blocks as they are allocated, padding counted
  double row_bytes = 0.0;        // of a token's rows: codes and scales, read by attention
  PairTimes encode;
  std::vector<PairTimes> attention;  // by KvSpeed::tests; empty times for tests of the other group
};

struct KvFormatSpeed {
  KvChoice choice;
  std::array<KvGroupSpeed, engine::kNumKvGroups> groups;
};

struct KvSpeed {
  std::vector<KvTest> tests;
  std::vector<KvFormatSpeed> formats;
  KvFormatSpeed bf16;  // its times stay empty: they are beside each format's
};

// The tests of a model: one for each group and number of visible positions.
//   sequences    0: the fewest with which the rows of every one of `formats` and of bf16 are
//                4 * cache_bytes or more
//   most_bytes   of memory for the blocks of bf16 and of the largest format together: automatic
//                sequences are cut to it
//   errors       kResourceExhausted when the sequences do not fit; those of kvcache::LayerFormats
absl::StatusOr<std::vector<KvTest>> PlanKvTests(const engine::ModelConfig& config,
                                                std::span<const KvChoice> formats,
                                                std::span<const int> contexts, int sequences,
                                                int block_tokens, uint64_t cache_bytes,
                                                uint64_t most_bytes);

// Whether there is a kernel for every layer in every one of the formats.
//   errors  kUnimplemented naming format, layers and head size
absl::Status CheckKernels(const engine::ModelConfig& config, std::span<const KvChoice> formats,
                          const kernels::Ops& ops);

struct KvSpeedPlan {
  std::vector<KvChoice> formats;
  std::vector<KvTest> tests;
  int block_tokens = 32;
  int pairs = 5;
  double least_run_s = 0.05;  // what is shorter is repeated within a run
};

//   begin   called right before each test: a moment to measure the machine
//   done    called after each format of a test
//   errors  of the stores: kResourceExhausted
absl::StatusOr<KvSpeed> MeasureKv(
    const engine::ModelConfig& config, const kernels::Ops& ops, const KvSpeedPlan& plan,
    const std::function<void()>& begin,
    const std::function<void(const KvTest&, const KvFormatSpeed&, const PairTimes&)>& done);

}  // namespace tandem::server
