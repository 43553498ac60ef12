// Times prompts and generation on a loaded engine, without scheduler and server.
//
//   pp N         one prompt of N random ids, in chunks of max_step_rows; the last row asks for a
//                token
//   tg N x S     S sequences, N steps of one row each, every row asking for its most likely token
//   tg N of R    the same with one sequence and R rows in every step, as a draft of R - 1 that held
//                is verified
// What is fed are random ids, so that the answer to one step does not choose the next one's work.
// Not here  generation as a server does it, with drafts (bench_generation.h).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights.h"
#include "server/cli/loaded_engine.h"
#include "server/config/settings.h"

namespace tandem::server {

struct BenchTest {
  int prompt_tokens = 0;    // pp; 0: a tg test
  int generate_tokens = 0;  // tg, per stream
  int streams = 1;
  int rows = 1;  // tg, per stream and step

  int tokens() const { return prompt_tokens > 0 ? prompt_tokens : generate_tokens * streams; }
};
std::string TestName(const BenchTest& test);  // "pp512", "tg64", "tg64 x16", "tg64 of 3"

// --streams, or what it is without.
std::vector<int> StreamsOf(const BenchArguments& arguments);

// The tests that --prompt, --generate and --streams ask for; a length of 0 is none.
std::vector<BenchTest> PlanTests(const BenchArguments& arguments);

// Steps of 1 to `most_rows` rows, to see what verifying a draft costs.
std::vector<BenchTest> PlanVerification(int steps, int most_rows);

// What the machine can do, as measured right before one repetition: its speed drifts, so a figure
// is held against the yardstick of its own moment.
struct Yardstick {
  double read_bytes_per_s = 0.0;     // 0: could not be measured
  double multiply_adds_per_s = 0.0;  // likewise
};

struct BenchResult {
  BenchTest test;
  std::vector<double> seconds;        // of each repetition
  std::vector<Yardstick> yardsticks;  // of each repetition
  int steps = 0;                      // of one repetition
  // Of one repetition. Multiply-adds are those that ran, attention included: rows whose output is
  // not needed leave the forward early.
  double multiply_adds = 0.0;
  double weight_bytes = 0.0;  // by StepWeightBytes
};

// Bytes of weights that one step reads: every matrix of the layers that run once, the head when a
// token is asked for, one row of the embedding tables per row. For experts, what `rows` rows touch
// if every expert is equally likely: E * (1 - (1 - K/E)^rows). KV and activations are not in it.
double StepWeightBytes(const engine::ModelConfig& config, const engine::Weights& weights, int rows,
                       int sampled_rows);

// Runs each test once shortened, to touch its memory, then all of them in turn, `repetitions`
// times: what is compared was measured side by side.
//   probe  called right before each repetition
//   done   called after each repetition with what is known of the test by then
absl::StatusOr<std::vector<BenchResult>> MeasureTests(
    LoadedEngine& engine, const std::vector<BenchTest>& tests, int repetitions, int max_step_rows,
    const std::function<Yardstick()>& probe, const std::function<void(const BenchResult&)>& done);

}  // namespace tandem::server
