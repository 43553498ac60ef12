// How one token is chosen from one row of logits, and what is reported about the choice.
//
// Order of operations (grpc-surface 2.5): masks (suppressed, allowed, banned, end-of-sequence
// before min_tokens) -> logit bias -> penalties -> temperature -> top-k -> top-p -> min-p -> draw.
// A draw is a function of (seed, choice, position, logits) alone: Gumbel noise from Philox4x32-10,
// so it does not depend on the batch, on preemption or on chunking (kernels.md 5.9).
//
// Not here  ranges a client may ask for (server/); when to stop (scheduler/).
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/logit_row.h"

namespace tandem::engine {

struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy, the lowest id wins ties, the three cuts are ignored
  int top_k = 0;             // 0: off
  float top_p = 1.0f;        // 1: off
  float min_p = 0.0f;        // 0: off; after temperature, relative to the most likely token
  float repetition_penalty = 1.0f;  // on ids of prompt and output
  float frequency_penalty = 0.0f;   // times the count in the output
  float presence_penalty = 0.0f;    // once when the count in the output is above 0
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> logit_bias = {};  // a bias <= -100 is a ban
  std::vector<int32_t> banned = {};
  std::vector<int32_t> allowed = {};  // empty: all
};

// Reported for an id that cannot be drawn, in place of -inf.
constexpr float kLowestLogprob = -3.4e38f;

struct LogprobOptions {
  bool enabled = false;
  int top = 0;             // how many of the most likely ids to report, 0..20
  bool processed = false;  // of the distribution sampled from, instead of the model's own: after
                           // masks, penalties, temperature and cuts; greedy puts all mass on one id
};

// Token ids seen so far, for the penalties. Kept by the scheduler per sequence only when a request
// asks for penalties.
struct TokenCounts {
  absl::flat_hash_map<int32_t, int32_t> output = {};  // id -> count
  absl::flat_hash_map<int32_t, int32_t> prompt = {};  // id -> count
};

struct TopLogprob {
  int32_t id = 0;
  float logprob = 0.0f;
};

// Asks for one token from one row of a step.
struct SampleRequest {
  int row = 0;                             // row of the step batch
  const SamplingParams* params = nullptr;  // null: nothing is drawn, only `score_id` is reported
  int choice = 0;                          // RNG stream
  int64_t position = 0;                    // absolute position that the drawn token will take
  const TokenCounts* counts = nullptr;     // required when params asks for a penalty; else ignored
  std::span<const int32_t> drafted = {};  // ids of the output behind `counts`: a draft that held so
                                          // far, at most a few. Penalties count them
  std::span<const int32_t> masked = {};   // ids that may not be drawn now (stops before min_tokens)
  LogprobOptions logprobs = {};
  int32_t score_id = -1;  // with params == null: the prompt token whose log-probability is wanted
};

struct SampledToken {
  int32_t id = -1;       // the token drawn, or score_id
  float logprob = 0.0f;  // 0 when not asked for
  int rank = 0;          // 1 + number of ids with a larger log-probability; 0: not asked for
  std::vector<TopLogprob> top = {};  // falling, ties to the lower id; may contain `id`
  bool finite = true;  // false: NaN, +inf, or nothing left to draw; nothing else is valid
};

// Buffers reused between calls; one per thread that samples.
struct SampleScratch {
  std::vector<float> model_row;  // [vocab] logits with the suppressed ids at -inf
  std::vector<float> drawn_row;  // [vocab] after masks, bias and penalties
  std::vector<float> model_tile_max, drawn_tile_max, tiles, weights;
  std::vector<Candidate> kept, sorted;
  std::vector<double> bin_mass;
};

// Chooses one token.
//   logits     [vocab] after the soft-cap. Unchanged on return
//   suppressed ids the model never emits; their logits count as -inf everywhere. Faster when they
//              are -inf already
//   returns    `finite` false when the row holds a NaN or +inf, or when no id is left to draw
// Ids outside the vocabulary in the request's lists are ignored; `score_id` must be inside.
// One pass for a greedy row; a row of 262144 costs a few passes with cuts, and a random word per id
// without any.
SampledToken Sample(std::span<const float> logits, const SampleRequest& request,
                    std::span<const int32_t> suppressed, SampleScratch& scratch);

// Chooses one token among a few candidates, as Sample does from a row that is -inf everywhere else:
// the same noise, masks, bias, penalties and cuts. Reports no log-probability.
//   candidates  ids, each at most once, with their logits, in any order; changed
//   returns     as Sample
// Sorts the candidates by id when the request masks or edits some, and looks each one up in
// `suppressed`, which is short.
SampledToken SampleAmong(std::vector<Candidate>& candidates, const SampleRequest& request,
                         std::span<const int32_t> suppressed, SampleScratch& scratch);

// True when masks, bias or penalties change the row before the draw.
bool EditsLogits(const SampleRequest& request);

// True when only the largest logit matters: no mask, bias, penalty or log-probability.
bool IsPlainGreedy(const SampleRequest& request);

}  // namespace tandem::engine
