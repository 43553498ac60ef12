#include "engine/logit_row.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace tandem::engine {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kFloatMax = std::numeric_limits<float>::max();

// Loops of this constant length become vector code on every target, and fix the order of sums.
constexpr int kLanes = 16;

std::span<const float> Tile(std::span<const float> row, size_t tile) {
  const size_t begin = tile * kLogitTile;
  return row.subspan(begin, std::min<size_t>(kLogitTile, row.size() - begin));
}

// x[i] = e^x[i] for x[i] in [-87, 0]: x = n*ln2 + r with |r| <= ln2/2, e^r by its Taylor series to
// the seventh power (remainder below 6e-9), 2^n by its exponent bits.
void ExpLanes(float (&x)[kLanes]) {
  constexpr float kLog2e = 0x1.715476p+0f;
  constexpr float kLn2High = 0x1.62e4p-1f;  // few bits, so that n*kLn2High is exact
  constexpr float kLn2Low = 0x1.7f7d1cp-20f;
  constexpr float kRound = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  for (int lane = 0; lane < kLanes; ++lane) {
    const float shifted = x[lane] * kLog2e + kRound;
    const float n = shifted - kRound;
    const float r = (x[lane] - n * kLn2High) - n * kLn2Low;
    float e = 1.0f / 5040;
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
    x[lane] = e * std::bit_cast<float>((exponent + 127) << 23);
  }
}

// Weights of kLanes values.
void WeighLanes(const float* values, float max, float temperature, float (&weights)[kLanes]) {
  // A loop of its own: beside the polynomial, the clamp would become a jump and cost the vector
  // code.
  for (int lane = 0; lane < kLanes; ++lane) {
    const float depth = (values[lane] - max) / temperature;
    weights[lane] = depth < -87.0f ? -87.0f : depth;
  }
  ExpLanes(weights);
}

}  // namespace

bool ScanTiles(std::span<const float> row, std::vector<float>& tile_max) {
  tile_max.resize((row.size() + kLogitTile - 1) / kLogitTile);
  float largest[kLanes];
  uint32_t broken[kLanes] = {};
  for (size_t tile = 0; tile < tile_max.size(); ++tile) {
    const std::span<const float> values = Tile(row, tile);
    std::fill_n(largest, kLanes, -kInf);
    size_t i = 0;
    for (; i + kLanes <= values.size(); i += kLanes) {
      const float* v = values.data() + i;
      for (int lane = 0; lane < kLanes; ++lane) {
        largest[lane] = v[lane] > largest[lane] ? v[lane] : largest[lane];
        broken[lane] |= v[lane] <= kFloatMax ? 0u : 1u;  // NaN compares false
      }
    }
    for (; i < values.size(); ++i) {
      largest[0] = values[i] > largest[0] ? values[i] : largest[0];
      broken[0] |= values[i] <= kFloatMax ? 0u : 1u;
    }
    tile_max[tile] = *std::max_element(largest, largest + kLanes);
  }
  return std::all_of(broken, broken + kLanes, [](uint32_t flag) { return flag == 0; });
}

Candidate FindMax(std::span<const float> row, std::span<const float> tile_max) {
  const auto tile = std::max_element(tile_max.begin(), tile_max.end());  // the first of equals
  const size_t begin = (tile - tile_max.begin()) * kLogitTile;
  const auto at = std::find(row.begin() + begin, row.end(), *tile);
  return {.value = *tile, .id = static_cast<int32_t>(at - row.begin())};
}

void ExpWeights(std::span<const float> values, float max, float temperature,
                std::span<float> weights) {
  for (size_t begin = 0; begin < values.size(); begin += kLanes) {
    const size_t count = std::min<size_t>(kLanes, values.size() - begin);
    float lanes[kLanes];
    if (count == kLanes) {
      WeighLanes(values.data() + begin, max, temperature, lanes);
    } else {
      float padded[kLanes];
      std::fill(std::copy_n(values.data() + begin, count, padded), padded + kLanes, max);
      WeighLanes(padded, max, temperature, lanes);
    }
    std::copy_n(lanes, count, weights.data() + begin);
  }
}

double SumWeights(std::span<const float> row, float max, float temperature) {
  double sums[kLanes] = {};
  float weights[kLogitTile];
  for (size_t begin = 0; begin < row.size(); begin += kLogitTile) {
    const std::span<const float> values = Tile(row, begin / kLogitTile);
    ExpWeights(values, max, temperature, std::span(weights, values.size()));
    std::fill(weights + values.size(), weights + kLogitTile, 0.0f);
    for (int i = 0; i < kLogitTile; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) sums[lane] += weights[i + lane];
    }
  }
  double sum = 0.0;
  for (const double s : sums) sum += s;
  return sum;
}

void CollectAtLeast(std::span<const float> row, std::span<const float> tile_max, float threshold,
                    std::vector<Candidate>& out) {
  const float lowest = std::max(threshold, -kFloatMax);
  for (size_t tile = 0; tile < tile_max.size(); ++tile) {
    if (!(tile_max[tile] >= lowest)) continue;
    const std::span<const float> values = Tile(row, tile);
    const int32_t first_id = static_cast<int32_t>(tile * kLogitTile);
    size_t size = out.size();
    out.resize(size + values.size());
    for (size_t i = 0; i < values.size(); ++i) {  // without a jump that nobody could predict
      out[size] = {values[i], first_id + static_cast<int32_t>(i)};
      size += values[i] >= lowest ? 1 : 0;
    }
    out.resize(size);
  }
}

void SelectTopK(std::span<const float> row, std::span<const float> tile_max, int k,
                std::vector<float>& tile_scratch, std::vector<Candidate>& out) {
  out.clear();
  if (k <= 0) return;
  // k tiles have a maximum of at least the k-th largest maximum, so k values are at least that.
  float threshold = -kInf;
  if (static_cast<size_t>(k) <= tile_max.size()) {
    tile_scratch.assign(tile_max.begin(), tile_max.end());
    std::nth_element(tile_scratch.begin(), tile_scratch.begin() + (k - 1), tile_scratch.end(),
                     std::greater<float>());
    threshold = tile_scratch[k - 1];
  }
  CollectAtLeast(row, tile_max, threshold, out);
  if (out.size() <= static_cast<size_t>(k)) return;
  std::nth_element(out.begin(), out.begin() + (k - 1), out.end(), ComesFirst);
  out.resize(k);
}

int CountAbove(std::span<const float> row, std::span<const float> tile_max, float value) {
  int count = 0;
  for (size_t tile = 0; tile < tile_max.size(); ++tile) {
    if (!(tile_max[tile] > value)) continue;
    for (const float v : Tile(row, tile)) count += v > value ? 1 : 0;
  }
  return count;
}

}  // namespace tandem::engine
