#include "engine/draft_choice.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace tandem::engine {

bool ChooseClusters(std::span<const float> scores, std::span<int32_t> chosen,
                    ChoiceScratch& scratch) {
  std::vector<Candidate>& best = scratch.candidates;
  bool finite = ScanTiles(scores, scratch.tile_max);
  if (finite) {
    SelectTopK(scores, scratch.tile_max, static_cast<int>(chosen.size()), scratch.tiles, best);
    finite = best.size() == chosen.size();
  }
  if (!finite) {
    std::iota(chosen.begin(), chosen.end(), 0);
    return false;
  }
  for (size_t j = 0; j < chosen.size(); ++j) chosen[j] = best[j].id;
  std::sort(chosen.begin(), chosen.end());
  return true;
}

SampledToken GuessFromRow(std::span<float> logits, const SampleRequest& request,
                          std::span<const int32_t> suppressed, ChoiceScratch& scratch) {
  for (const int32_t id : suppressed) logits[id] = -std::numeric_limits<float>::infinity();
  return Sample(logits, request, suppressed, scratch.sample);
}

SampledToken GuessFromClusters(std::span<const float> logits, std::span<const int32_t> clusters,
                               int cluster_rows, const int32_t* cluster_ids,
                               const SampleRequest& request, std::span<const int32_t> suppressed,
                               ChoiceScratch& scratch) {
  std::vector<Candidate>& candidates = scratch.candidates;
  candidates.resize(logits.size());
  size_t at = 0;
  for (const int32_t cluster : clusters) {
    const int32_t* ids = cluster_ids + int64_t{cluster} * cluster_rows;
    for (int i = 0; i < cluster_rows; ++i, ++at) candidates[at] = {logits[at], ids[i]};
  }
  return SampleAmong(candidates, request, suppressed, scratch.sample);
}

}  // namespace tandem::engine
