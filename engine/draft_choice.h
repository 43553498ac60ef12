// How the drafter chooses from the scores and logits of one row: clusters first where its head has
// them, then the guess.
//
// Ids outside the chosen clusters have probability 0; no row as wide as the vocabulary is made for
// them. A guess is drawn as the target will draw at its position (mtp.md 1.8, 2.4 M-coupled).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/logit_row.h"
#include "engine/sampling.h"

namespace tandem::engine {

// Buffers reused between calls; one per thread that chooses.
struct ChoiceScratch {
  SampleScratch sample;
  std::vector<float> tile_max, tiles;
  std::vector<Candidate> candidates;
};

// The clusters with the largest scores, ties to the lower cluster.
//   scores   [clusters]
//   chosen   [clusters per token] written, rising
//   returns  false for a NaN or infinity; `chosen` is then any valid clusters
bool ChooseClusters(std::span<const float> scores, std::span<int32_t> chosen,
                    ChoiceScratch& scratch);

// Draws from a whole row of logits. Suppressed ones become -inf in place.
SampledToken GuessFromRow(std::span<float> logits, const SampleRequest& request,
                          std::span<const int32_t> suppressed, ChoiceScratch& scratch);

// Draws among the tokens of the chosen clusters.
//   logits       [clusters.size() * cluster_rows] in the order of `clusters`
//   cluster_ids  token ids of all clusters, cluster_rows of each
SampledToken GuessFromClusters(std::span<const float> logits, std::span<const int32_t> clusters,
                               int cluster_rows, const int32_t* cluster_ids,
                               const SampleRequest& request, std::span<const int32_t> suppressed,
                               ChoiceScratch& scratch);

}  // namespace tandem::engine
