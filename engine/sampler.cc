// Masks, bias, penalties, temperature, the three cuts and the draw, in this order.
//
// Source    kernels.md 5.9 (Gumbel-max with counter-based noise), grpc-surface 2.5 (the order).
// Truth     the sort-based reference in tests/engine/sampler_test.cc.
#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <limits>

#include "engine/logit_row.h"
#include "engine/philox.h"
#include "engine/sampling.h"

namespace tandem::engine {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kFloatMax = std::numeric_limits<float>::max();
constexpr uint32_t kDrawPurpose = 0;  // third counter word: what the noise is for

struct Row {
  std::span<const float> values;    // [vocab]
  std::span<const float> tile_max;  // [tiles]
};

// What is left to draw from. Every id of the row above -inf when `all`, else `list`.
struct Kept {
  bool all = true;
  std::span<const Candidate> list;
  float max = 0.0f;  // largest value
  float temperature = 1.0f;
};

bool HasPenalty(const SamplingParams& p) {
  return p.repetition_penalty != 1.0f || p.frequency_penalty != 0.0f || p.presence_penalty != 0.0f;
}

// The values to edit, by id: those of a whole row, or of a few candidates. An id outside has none.
struct RowValues {
  std::span<float> row;

  float* Find(int32_t id) const {
    return id >= 0 && id < static_cast<int32_t>(row.size()) ? &row[id] : nullptr;
  }
};
struct CandidateValues {
  std::span<Candidate> candidates;  // ids rising

  float* Find(int32_t id) const {
    const auto at =
        std::lower_bound(candidates.begin(), candidates.end(), id,
                         [](const Candidate& candidate, int32_t id) { return candidate.id < id; });
    return at != candidates.end() && at->id == id ? &at->value : nullptr;
  }
};

template <typename Values>
void Mask(std::span<const int32_t> ids, const Values& values) {
  for (const int32_t id : ids) {
    if (float* value = values.Find(id)) *value = -kInf;
  }
}

template <typename Values>
void Penalize(const SamplingParams& p, const TokenCounts& counts, std::span<const int32_t> drafted,
              const Values& values) {
  std::vector<int32_t> fresh;  // drafted ids that `counts` has not in the output, each once
  for (const int32_t id : drafted) {
    if (counts.output.contains(id)) continue;
    if (std::find(fresh.begin(), fresh.end(), id) == fresh.end()) fresh.push_back(id);
  }
  const auto value_of = [&](int32_t id) -> float* {
    float* value = values.Find(id);
    return value != nullptr && *value != -kInf ? value : nullptr;
  };
  const auto repeat = [&](int32_t id) {
    float* value = value_of(id);
    if (value == nullptr) return;
    const float r = p.repetition_penalty;
    // A tiny r takes a logit past the range of a float; it stays the largest there is.
    *value = std::clamp(*value > 0.0f ? *value / r : *value * r, -kFloatMax, kFloatMax);
  };
  const auto subtract = [&](int32_t id, int64_t counted) {
    const int64_t count = counted + std::count(drafted.begin(), drafted.end(), id);
    float* value = value_of(id);
    if (value == nullptr || count <= 0) return;
    *value -= p.frequency_penalty * static_cast<float>(count) + p.presence_penalty;
  };
  for (const auto& [id, count] : counts.output) repeat(id);
  for (const int32_t id : fresh) repeat(id);
  for (const auto& [id, count] : counts.prompt) {
    const bool in_draft = std::find(fresh.begin(), fresh.end(), id) != fresh.end();
    if (!counts.output.contains(id) && !in_draft) repeat(id);
  }
  for (const auto& [id, count] : counts.output) subtract(id, count);
  for (const int32_t id : fresh) subtract(id, 0);
}

// Masks, bias and penalties; the allowed ids are the caller's.
template <typename Values>
void Edit(const SampleRequest& request, const Values& values) {
  const SamplingParams& p = *request.params;
  Mask(p.banned, values);
  Mask(request.masked, values);
  for (const auto& [id, bias] : p.logit_bias) {
    if (float* value = values.Find(id)) *value = bias <= -100.0f ? -kInf : *value + bias;
  }
  if (HasPenalty(p)) {
    assert(request.counts != nullptr);
    Penalize(p, *request.counts, request.drafted, values);
  }
}

// The row after masks, bias and penalties, in `row`.
void EditRow(std::span<const float> model_row, const SampleRequest& request,
             std::vector<float>& row) {
  const SamplingParams& p = *request.params;
  const int32_t vocab = static_cast<int32_t>(model_row.size());
  if (p.allowed.empty()) {
    row.assign(model_row.begin(), model_row.end());
  } else {
    row.assign(model_row.size(), -kInf);
    for (const int32_t id : p.allowed) {
      if (id >= 0 && id < vocab) row[id] = model_row[id];
    }
  }
  Edit(request, RowValues{row});
}

// Puts the candidates that may not be drawn at -inf and edits the others.
void EditCandidates(const SampleRequest& request, std::vector<Candidate>& candidates) {
  const auto lower_id = [](const Candidate& a, const Candidate& b) { return a.id < b.id; };
  std::sort(candidates.begin(), candidates.end(), lower_id);
  Edit(request, CandidateValues{candidates});
  if (const std::vector<int32_t>& allowed = request.params->allowed; !allowed.empty()) {
    std::vector<int32_t> known(allowed);
    std::sort(known.begin(), known.end());
    for (Candidate& c : candidates) {
      if (!std::binary_search(known.begin(), known.end(), c.id)) c.value = -kInf;
    }
  }
}

// exp((value - max) / temperature): the weight of one of a few candidates.
double Weight(const Kept& kept, float value) {
  return std::exp((double{value} - kept.max) / kept.temperature);
}

// Top-p over a short list: sorts it and keeps the shortest prefix that weighs `target`.
void CutTopPBySorting(const Kept& kept, double target, std::vector<Candidate>& list) {
  std::sort(list.begin(), list.end(), ComesFirst);
  double mass = 0.0;
  size_t length = 0;
  while (length < list.size() && (length == 0 || mass < target)) {
    mass += Weight(kept, list[length++].value);
  }
  list.resize(length);
}

// The same over a long list. Candidates fall into bins by value, so whole bins are inside or
// outside, and only the one where the mass crosses the target is sorted.
void CutTopPByBins(const Kept& kept, double target, SampleScratch& scratch,
                   std::vector<Candidate>& list) {
  constexpr int kBins = 1024;
  constexpr float kBinsPerUnit = 32.0f;  // the last one holds all below e^-32, for good weightless
  const auto bin_of = [&](float value) {
    const float depth = (kept.max - value) / kept.temperature;
    return static_cast<int>(std::min(depth * kBinsPerUnit, kBins - 1.0f));
  };
  std::vector<float>& weights = scratch.weights;
  weights.resize(list.size());
  for (size_t i = 0; i < list.size(); ++i) weights[i] = list[i].value;
  ExpWeights(weights, kept.max, kept.temperature, weights);
  scratch.bin_mass.assign(kBins, 0.0);
  for (size_t i = 0; i < list.size(); ++i) scratch.bin_mass[bin_of(list[i].value)] += weights[i];

  double mass = 0.0;  // of the bins before `crossing`
  int crossing = 0;
  while (crossing < kBins - 1 && mass + scratch.bin_mass[crossing] < target) {
    mass += scratch.bin_mass[crossing++];
  }

  std::vector<Candidate>& edge = scratch.sorted;
  edge.clear();
  size_t inside = 0;
  for (const Candidate c : list) {
    const int bin = bin_of(c.value);
    list[inside] = c;
    inside += bin < crossing ? 1 : 0;
    if (bin == crossing) edge.push_back(c);
  }
  list.resize(inside);
  std::sort(edge.begin(), edge.end(), ComesFirst);
  for (const Candidate& c : edge) {
    if (!list.empty() && mass >= target) break;
    list.push_back(c);
    mass += Weight(kept, c.value);
  }
}

// Top-p over a list whose weights sum to `total`. Shares of the mass are good to 3e-7, about what a
// float p resolves.
void CutTopPOfList(const Kept& kept, double target, SampleScratch& scratch,
                   std::vector<Candidate>& list) {
  constexpr size_t kSortingPays = 2048;
  if (list.size() <= kSortingPays) {
    CutTopPBySorting(kept, target, list);
  } else {
    CutTopPByBins(kept, target, scratch, list);
  }
}

double SumOfList(const Kept& kept, std::span<const Candidate> list) {
  double total = 0.0;
  for (const Candidate& c : list) total += Weight(kept, c.value);
  return total;
}

// Top-p over the list that top-k left, or over the whole row.
void CutTopP(const Row& row, double p, Kept& kept, SampleScratch& scratch) {
  std::vector<Candidate>& list = scratch.kept;
  double total = 0.0;
  if (kept.all) {
    total = SumWeights(row.values, kept.max, kept.temperature);
    // Ids that weigh less than (1 - p) * total / vocab each weigh less than 1 - p together: the
    // prefix ends before them.
    const double lightest = (1.0 - p) * total / static_cast<double>(row.values.size());
    const double lowest = kept.max + kept.temperature * (std::log(lightest) - 0.01);
    CollectAtLeast(row.values, row.tile_max, static_cast<float>(std::min(lowest, double{kept.max})),
                   list);
    kept.all = false;
  } else {
    total = SumOfList(kept, list);
  }
  CutTopPOfList(kept, p * total, scratch, list);
}

// exp((value - max) / temperature) >= min_p, solved for the value: no normalization needed.
float LowestOfMinP(const SamplingParams& p, float max) {
  const double min_p = std::min(double{p.min_p}, 1.0);
  return static_cast<float>(max + double{p.temperature} * std::log(min_p));
}

void DropBelow(float lowest, std::vector<Candidate>& list) {
  std::erase_if(list, [lowest](const Candidate& c) { return c.value < lowest; });
}

// Applies top-k, top-p and min-p in this order. The survivors are in `scratch.kept`, in no order.
Kept Cut(const Row& row, const SamplingParams& p, float max, SampleScratch& scratch) {
  Kept kept = {.all = true, .list = {}, .max = max, .temperature = p.temperature};
  std::vector<Candidate>& list = scratch.kept;
  list.clear();
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < row.values.size()) {
    SelectTopK(row.values, row.tile_max, p.top_k, scratch.tiles, list);
    kept.all = false;
  }
  if (p.top_p < 1.0f) CutTopP(row, p.top_p, kept, scratch);
  if (p.min_p > 0.0f) {
    const float lowest = LowestOfMinP(p, max);
    if (kept.all) {
      CollectAtLeast(row.values, row.tile_max, lowest, list);
      kept.all = false;
    } else {
      DropBelow(lowest, list);
    }
  }
  kept.list = list;
  return kept;
}

// The same for a list in place of a row.
Kept CutList(const SamplingParams& p, float max, SampleScratch& scratch,
             std::vector<Candidate>& list) {
  Kept kept = {.all = false, .list = {}, .max = max, .temperature = p.temperature};
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < list.size()) {
    std::nth_element(list.begin(), list.begin() + (p.top_k - 1), list.end(), ComesFirst);
    list.resize(p.top_k);
  }
  if (p.top_p < 1.0f) CutTopPOfList(kept, p.top_p * SumOfList(kept, list), scratch, list);
  if (p.min_p > 0.0f) DropBelow(LowestOfMinP(p, max), list);
  kept.list = list;
  return kept;
}

// The race of Gumbel-max: the id with the largest (value - max) / temperature + noise wins, ties go
// to the lower id, in whatever order candidates are shown. Normalization would cancel.
class Race {
 public:
  Race(const Kept& kept, const SampleRequest& request)
      : kept_(kept),
        key_({static_cast<uint32_t>(request.params->seed),
              static_cast<uint32_t>(request.params->seed >> 32)}),
        position_(static_cast<uint32_t>(request.position)),
        choice_(static_cast<uint32_t>(request.choice)) {}

  int32_t winner() const { return id_; }

  // Random words of ids 4*group .. 4*group + 3.
  std::array<uint32_t, 4> Words(int32_t group) const {
    return Philox4x32({position_, static_cast<uint32_t>(group), kDrawPurpose, choice_}, key_);
  }

  // The largest word with which a value up to `value` could still win. Noise is -log(E) with
  // E = -log(1 - v) >= v, hence at most -log(v); the margin covers rounding.
  uint32_t LastHopefulWord(float value) const {
    if (id_ < 0) return std::numeric_limits<uint32_t>::max();
    const float lead = score_ - (value - kept_.max) / kept_.temperature;
    const double v = std::exp(0.01 - double{lead});
    if (!(v < 1.0)) return std::numeric_limits<uint32_t>::max();
    return static_cast<uint32_t>(v * 0x1p32);
  }

  void Show(int32_t id, float value, uint32_t word) {
    const float v = static_cast<float>(word) * 0x1p-32f + 0x1p-33f;  // (0, 1], the product is exact
    const float noise = -std::log(-std::log1p(-v));
    const float score = (value - kept_.max) / kept_.temperature + noise;
    if (id_ < 0 || score > score_ || (score == score_ && id < id_)) {
      score_ = score;
      id_ = id;
    }
  }

 private:
  const Kept& kept_;
  std::array<uint32_t, 2> key_;
  uint32_t position_;
  uint32_t choice_;
  float score_ = 0.0f;
  int32_t id_ = -1;
};

int32_t DrawFromRow(const Row& row, Race race) {
  const int32_t vocab = static_cast<int32_t>(row.values.size());
  const auto show_tile = [&](size_t tile) {
    if (row.tile_max[tile] == -kInf) return;
    const uint32_t last_word = race.LastHopefulWord(row.tile_max[tile]);
    const int32_t begin = static_cast<int32_t>(tile) * kLogitTile;
    const int32_t end = std::min(vocab, begin + kLogitTile);
    for (int32_t id = begin; id < end; id += 4) {
      const std::array<uint32_t, 4> words = race.Words(id / 4);
      for (int32_t i = 0; i < std::min(4, end - id); ++i) {
        if (words[i] > last_word || row.values[id + i] == -kInf) continue;
        race.Show(id + i, row.values[id + i], words[i]);
      }
    }
  };
  // The most likely id first: few others then come near the score to beat.
  const size_t first =
      std::max_element(row.tile_max.begin(), row.tile_max.end()) - row.tile_max.begin();
  show_tile(first);
  for (size_t tile = 0; tile < row.tile_max.size(); ++tile) {
    if (tile != first) show_tile(tile);
  }
  return race.winner();
}

int32_t DrawFromList(std::span<const Candidate> list, Race race) {
  constexpr size_t kChunk = 64;
  int32_t group = -1;
  std::array<uint32_t, 4> words = {};
  for (size_t begin = 0; begin < list.size(); begin += kChunk) {
    const std::span<const Candidate> chunk =
        list.subspan(begin, std::min(kChunk, list.size() - begin));
    float largest = chunk[0].value;
    for (const Candidate& c : chunk) largest = std::max(largest, c.value);
    const uint32_t last_word = race.LastHopefulWord(largest);
    for (const Candidate& c : chunk) {
      if (c.id / 4 != group) {
        group = c.id / 4;
        words = race.Words(group);
      }
      if (words[c.id % 4] <= last_word) race.Show(c.id, c.value, words[c.id % 4]);
    }
  }
  return race.winner();
}

// Extends `top` to n entries with the lowest ids it lacks: they all have probability 0.
void FillWithImpossible(size_t n, size_t vocab, std::vector<TopLogprob>& top) {
  const auto likely = static_cast<std::ptrdiff_t>(top.size());
  for (int32_t id = 0; top.size() < std::min(n, vocab); ++id) {
    const bool listed = std::any_of(top.begin(), top.begin() + likely,
                                    [id](const TopLogprob& t) { return t.id == id; });
    if (!listed) top.push_back({.id = id, .logprob = kLowestLogprob});
  }
}

// Logprob, rank and top of `token->id` under weights exp((value - max) / temperature) over `kept`.
void Report(const Row& row, const Kept& kept, int num_top, SampleScratch& scratch,
            SampledToken* token) {
  double total = 0.0;
  if (kept.all) {
    total = SumWeights(row.values, kept.max, kept.temperature);
  } else {
    for (const Candidate& c : kept.list) total += Weight(kept, c.value);
  }
  const double log_total = std::log(total);
  const auto logprob = [&](float value) {
    const double x = (double{value} - kept.max) / kept.temperature - log_total;
    return static_cast<float>(std::max(x, double{kLowestLogprob}));
  };

  const float value = row.values[token->id];
  token->logprob = logprob(value);
  if (kept.all) {
    token->rank = 1 + CountAbove(row.values, row.tile_max, value);
    SelectTopK(row.values, row.tile_max, num_top, scratch.tiles, scratch.sorted);
  } else {
    token->rank = 1 + static_cast<int>(
                          std::count_if(kept.list.begin(), kept.list.end(),
                                        [value](const Candidate& c) { return c.value > value; }));
    scratch.sorted.assign(kept.list.begin(), kept.list.end());
  }
  const size_t likely = std::min<size_t>(std::max(num_top, 0), scratch.sorted.size());
  std::partial_sort(scratch.sorted.begin(), scratch.sorted.begin() + likely, scratch.sorted.end(),
                    ComesFirst);
  for (size_t i = 0; i < likely; ++i) {
    token->top.push_back({.id = scratch.sorted[i].id, .logprob = logprob(scratch.sorted[i].value)});
  }
  FillWithImpossible(std::max(num_top, 0), row.values.size(), token->top);
}

// The model's row with suppressed ids at -inf: `logits` itself when they are already.
std::span<const float> ModelRow(std::span<const float> logits, std::span<const int32_t> suppressed,
                                std::vector<float>& copy) {
  const auto pending = [&](int32_t id) {
    return id >= 0 && id < static_cast<int32_t>(logits.size()) && logits[id] != -kInf;
  };
  if (std::none_of(suppressed.begin(), suppressed.end(), pending)) return logits;
  copy.assign(logits.begin(), logits.end());
  Mask(suppressed, RowValues{copy});
  return copy;
}

}  // namespace

SampledToken Sample(std::span<const float> logits, const SampleRequest& request,
                    std::span<const int32_t> suppressed, SampleScratch& scratch) {
  SampledToken token;
  Row model = {.values = ModelRow(logits, suppressed, scratch.model_row), .tile_max = {}};
  token.finite = !logits.empty() && ScanTiles(model.values, scratch.model_tile_max);
  if (!token.finite) return token;
  model.tile_max = scratch.model_tile_max;
  const Candidate model_best = FindMax(model.values, model.tile_max);
  token.finite = model_best.value != -kInf;
  if (!token.finite) return token;
  const Kept model_kept = {.all = true, .list = {}, .max = model_best.value, .temperature = 1.0f};

  if (request.params == nullptr) {
    token.id = request.score_id;
    Report(model, model_kept, request.logprobs.top, scratch, &token);
    return token;
  }

  Row row = model;
  Candidate best = model_best;
  if (EditsLogits(request)) {
    EditRow(model.values, request, scratch.drawn_row);
    ScanTiles(scratch.drawn_row, scratch.drawn_tile_max);
    row = {.values = scratch.drawn_row, .tile_max = scratch.drawn_tile_max};
    best = FindMax(row.values, row.tile_max);
    token.finite = best.value != -kInf;
    if (!token.finite) return token;
  }

  Kept kept;
  if (request.params->temperature > 0.0f) {
    kept = Cut(row, *request.params, best.value, scratch);
    const Race race(kept, request);
    token.id = kept.all ? DrawFromRow(row, race) : DrawFromList(kept.list, race);
  } else {
    scratch.kept.assign(1, best);
    kept = {.all = false, .list = scratch.kept, .max = best.value, .temperature = 1.0f};
    token.id = best.id;
  }

  if (request.logprobs.enabled) {
    const bool processed = request.logprobs.processed;
    Report(processed ? row : model, processed ? kept : model_kept, request.logprobs.top, scratch,
           &token);
  }
  return token;
}

SampledToken SampleAmong(std::vector<Candidate>& candidates, const SampleRequest& request,
                         std::span<const int32_t> suppressed, SampleScratch& scratch) {
  SampledToken token;
  // A NaN compares false.
  const auto finite = [](const Candidate& c) { return c.value <= kFloatMax; };
  token.finite = std::all_of(candidates.begin(), candidates.end(), finite);
  if (!token.finite) return token;
  if (EditsLogits(request)) EditCandidates(request, candidates);
  std::erase_if(candidates, [&](const Candidate& c) {
    return c.value == -kInf ||
           std::find(suppressed.begin(), suppressed.end(), c.id) != suppressed.end();
  });
  const auto best = std::min_element(candidates.begin(), candidates.end(), ComesFirst);
  token.finite = best != candidates.end();
  if (!token.finite) return token;
  if (request.params->temperature > 0.0f) {
    const Kept kept = CutList(*request.params, best->value, scratch, candidates);
    token.id = DrawFromList(kept.list, Race(kept, request));
  } else {
    token.id = best->id;
  }
  return token;
}

bool EditsLogits(const SampleRequest& request) {
  const SamplingParams& p = *request.params;
  return !request.masked.empty() || !p.banned.empty() || !p.allowed.empty() ||
         !p.logit_bias.empty() || HasPenalty(p);
}

bool IsPlainGreedy(const SampleRequest& request) {
  return request.params != nullptr && !(request.params->temperature > 0.0f) &&
         !EditsLogits(request) && !request.logprobs.enabled;
}

}  // namespace tandem::engine
