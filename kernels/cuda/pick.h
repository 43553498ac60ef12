// One token for each request from rows of logits, as engine::Sample does where nothing edits a row.
//
// The order is suppressed ids -> temperature -> top-k -> top-p -> min-p -> draw, the draw a
// function of (seed, choice, position, logits) alone (kernels.md 5.9). What a request gets depends
// on its row and on itself: not on the others, their number or their order.
//
// Agreement with the host: cuts sum weights as integers and draws compare f32 scores, so an id can
// differ from engine::Sample only where a mass comes within 1e-6 of top_p's share, or where the two
// best scores are a few units in the last place apart (logf and log1pf of the device). Emulation
// has the host's logarithms.
//
// Not here  bias, penalties, masks of a request and log-probabilities: their rows are copied back
//           and sampled on the host; logits and their soft-cap (head.h).
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// What engine::SampleRequest says of a draw that the device makes.
struct alignas(8) PickRequest {
  uint64_t seed = 0;
  int64_t position = 0;      // absolute position that the token will take
  int32_t row = 0;           // of the logits; several requests may name the same one
  float temperature = 0.0f;  // above 0; else the largest logit wins, ties to the lower id
  int32_t top_k = 0;         // up to 0: off. Ties to the lower id
  float top_p = 1.0f;        // from 1 on: off. The token that reaches the mass is kept
  float min_p = 0.0f;        // up to 0: off
  int32_t choice = 0;        // stream of noise
};

struct PickArgs {
  const float* logits = nullptr;  // [rows, stride], `vocab` values used; 16-byte aligned
  int64_t stride = 0;             // any; multiples of 4 are read faster
  // [ceil(vocab / 32)], bit v % 32 of word v / 32: counts as -infinity. Null: none.
  const uint32_t* suppressed = nullptr;
  const PickRequest* requests = nullptr;  // [count], device memory
  int count = 0;
  int vocab = 0;  // PickSupports it
  // False where the caller knows that no request has a top_k or top_p that is on: six launches
  // less. Such cuts are then left out.
  bool cuts = true;
  std::byte* workspace = nullptr;  // PickWorkspaceBytes, 16-byte aligned, of any content
  int32_t* ids = nullptr;          // [count] -1 where not finite
  int32_t* finite = nullptr;  // [count] 0: NaN or +infinity in the row, or nothing left; else 1
};

// Up to 2^19 ids: more could overflow the sum of their weights. Asked when a model is loaded.
bool PickSupports(int vocab);

// For calls of up to `count` requests; less without cuts.
size_t PickWorkspaceBytes(int count, int vocab, bool cuts = true);

void Pick(const PickArgs& args, Stream stream);

// The same among the tokens of chosen clusters (engine::GuessFromClusters): every other id counts
// as -infinity. A request's row is that of its logits and of its clusters.
struct PickAmongArgs {
  const float* logits = nullptr;  // [rows, stride], of cluster 0's tokens, then 1's, ...; 4-aligned
  int64_t stride = 0;
  const int32_t* clusters = nullptr;     // [rows, chosen] each at most once in a row
  const int32_t* cluster_ids = nullptr;  // [clusters, cluster_rows] their tokens, each id once;
                                         // of a vocabulary that PickSupports
  int chosen = 0;
  int cluster_rows = 0;                   // PickAmongSupports(chosen * cluster_rows)
  const uint32_t* suppressed = nullptr;   // by id, as above
  const PickRequest* requests = nullptr;  // [count], device memory
  int count = 0;
  int32_t* ids = nullptr;     // [count] -1 where not finite
  int32_t* finite = nullptr;  // [count] as above; a suppressed candidate must be finite too
};

// Up to 4096 candidates. Asked when a model is loaded.
bool PickAmongSupports(int candidates);

void PickAmong(const PickAmongArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
