// Passes over one row of logits: largest values, sums of exponentials, the k best.
//
// A row is read in tiles. Their maxima, found in the first pass, tell the later ones which tiles
// need no second look.
//
// Not here  what the values mean and in which order they are cut (sampler.cc).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::engine {

constexpr int kLogitTile = 256;  // 1 KiB; the 1024 maxima of a Gemma row fit the L1 cache

struct Candidate {
  float value = 0.0f;
  int32_t id = 0;
};

// Larger value first, ties to the lower id.
inline bool ComesFirst(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

// Fills `tile_max`, [ceil(row / kLogitTile)], and returns false when the row holds a NaN or +inf.
bool ScanTiles(std::span<const float> row, std::vector<float>& tile_max);

// The largest value and the lowest id that has it. -inf and 0 when all are -inf.
Candidate FindMax(std::span<const float> row, std::span<const float> tile_max);

// What a value weighs against the largest one: exp((value - max) / temperature), within 2 units in
// the last place of a float; e^-87 stands for anything smaller. Four times as fast as std::exp.
//   values, weights  [n], may be the same array; no value is above max
void ExpWeights(std::span<const float> values, float max, float temperature,
                std::span<float> weights);

// The sum of the row's weights, in f64 and always in the same order. At least 1 when `max` is the
// row's own.
double SumWeights(std::span<const float> row, float max, float temperature);

// Appends every value >= threshold with its id, ids rising; -inf never counts.
void CollectAtLeast(std::span<const float> row, std::span<const float> tile_max, float threshold,
                    std::vector<Candidate>& out);

// Replaces `out` by the k first of the row in the order of ComesFirst, themselves in no order;
// fewer when fewer are above -inf. `tile_scratch` is overwritten.
void SelectTopK(std::span<const float> row, std::span<const float> tile_max, int k,
                std::vector<float>& tile_scratch, std::vector<Candidate>& out);

// Ids with a larger value than `value`.
int CountAbove(std::span<const float> row, std::span<const float> tile_max, float value);

}  // namespace tandem::engine
