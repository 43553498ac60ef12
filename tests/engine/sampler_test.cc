// The sampler against a plain sort-based reference, and the properties its users rely on.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "engine/logit_row.h"
#include "engine/philox.h"
#include "engine/sampling.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

SampledToken SampleOnce(const std::vector<float>& logits, const SampleRequest& request,
                        const std::vector<int32_t>& suppressed = {}) {
  SampleScratch scratch;
  return Sample(logits, request, suppressed, scratch);
}

std::vector<float> RandomRow(int vocab, float sigma, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, sigma);
  std::vector<float> row(vocab);
  for (float& value : row) value = normal(random);
  return row;
}

// The log-probabilities that are really sampled from, by id; impossible ids are left out.
std::map<int32_t, float> Distribution(const std::vector<float>& logits, SampleRequest request) {
  request.logprobs = {.enabled = true, .top = static_cast<int>(logits.size()), .processed = true};
  const SampledToken token = SampleOnce(logits, request);
  EXPECT_TRUE(token.finite);
  EXPECT_EQ(token.top.size(), logits.size());
  std::map<int32_t, float> kept;
  for (const TopLogprob& t : token.top) {
    if (t.logprob != kLowestLogprob) kept[t.id] = t.logprob;
  }
  return kept;
}

std::vector<int32_t> KeptIds(const std::vector<float>& logits, const SamplingParams& params) {
  std::vector<int32_t> ids;
  for (const auto& [id, logprob] : Distribution(logits, {.params = &params})) ids.push_back(id);
  return ids;
}

// What grpc-surface 2.5 says, with one sort: ids by falling value, then three cuts of that list.
std::vector<int32_t> ReferenceIds(const std::vector<float>& logits, const SamplingParams& p) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] != -kInf) ids.push_back(static_cast<int32_t>(i));
  }
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  if (p.top_k > 0 && ids.size() > static_cast<size_t>(p.top_k)) ids.resize(p.top_k);
  const double max = logits[ids[0]];
  const auto weight = [&](int32_t id) { return std::exp((logits[id] - max) / p.temperature); };
  if (p.top_p < 1.0f) {
    double total = 0.0;
    for (const int32_t id : ids) total += weight(id);
    double mass = 0.0;
    size_t length = 0;
    while (length < ids.size() && (length == 0 || mass < double{p.top_p} * total)) {
      mass += weight(ids[length++]);
    }
    ids.resize(length);
  }
  std::erase_if(ids, [&](int32_t id) { return weight(id) < p.min_p; });
  std::sort(ids.begin(), ids.end());
  return ids;
}

// Gumbel-max over the kept ids, one by one.
int32_t ReferenceDraw(const std::vector<float>& logits, const std::vector<int32_t>& kept,
                      const SampleRequest& request) {
  const SamplingParams& p = *request.params;
  const float max = *std::max_element(logits.begin(), logits.end());
  int32_t best = -1;
  float best_score = -kInf;
  for (const int32_t id : kept) {
    const uint32_t word =
        Philox4x32({static_cast<uint32_t>(request.position), static_cast<uint32_t>(id / 4), 0,
                    static_cast<uint32_t>(request.choice)},
                   {static_cast<uint32_t>(p.seed), static_cast<uint32_t>(p.seed >> 32)})[id % 4];
    const float v = std::fmaf(static_cast<float>(word), 0x1p-32f, 0x1p-33f);
    const float score = (logits[id] - max) / p.temperature - std::log(-std::log1p(-v));
    if (best < 0 || score > best_score) {
      best = id;
      best_score = score;
    }
  }
  return best;
}

TEST(PhiloxTest, GivesThePublishedAnswers) {
  // Given the known-answer vectors published with Random123, when run, then the words agree.
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(
      Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

struct CutCase {
  float temperature;
  int top_k;
  float top_p;
  float min_p;
};

class CutTest : public testing::TestWithParam<CutCase> {};

TEST_P(CutTest, KeepsAndDrawsWhatTheSortedReferenceKeepsAndDraws) {
  // Given rows of awkward sizes, flat and peaked, some with ties.
  const CutCase& c = GetParam();
  for (const int vocab : {1, 2, 7, 255, 256, 257, 1000, 5003}) {
    for (const float sigma : {0.1f, 1.0f, 6.0f}) {
      std::vector<float> logits = RandomRow(vocab, sigma, vocab);
      for (int i = 0; i + 40 < vocab; i += 37) logits[i + 40] = logits[i];
      const SamplingParams params = {.temperature = c.temperature,
                                     .top_k = c.top_k,
                                     .top_p = c.top_p,
                                     .min_p = c.min_p,
                                     .seed = 0x123456789abcdefULL};
      // When cut, then exactly the reference's ids are left, with its probabilities.
      const std::vector<int32_t> expected = ReferenceIds(logits, params);
      const std::map<int32_t, float> kept = Distribution(logits, {.params = &params});
      std::vector<int32_t> ids;
      double total = 0.0;
      for (const auto& [id, logprob] : kept) {
        ids.push_back(id);
        total += std::exp(logprob);
      }
      ASSERT_EQ(ids, expected) << "vocab " << vocab << " sigma " << sigma;
      EXPECT_NEAR(total, 1.0, 1e-5);
      for (const int32_t id : expected) {
        ASSERT_NEAR(kept.at(id) - kept.at(expected[0]),
                    (logits[id] - logits[expected[0]]) / c.temperature, 1e-4);
      }
      // And every draw is the reference's.
      SampleScratch scratch;
      for (int position = 0; position < 20; ++position) {
        const SampleRequest request = {.params = &params, .choice = 3, .position = position};
        ASSERT_EQ(Sample(logits, request, {}, scratch).id,
                  ReferenceDraw(logits, expected, request));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cuts, CutTest,
    testing::Values(CutCase{1.0f, 0, 1.0f, 0.0f}, CutCase{0.7f, 64, 0.95f, 0.0f},
                    CutCase{1.0f, 1, 1.0f, 0.0f}, CutCase{1.0f, 3000, 0.9f, 0.0f},
                    CutCase{1.0f, 0, 0.95f, 0.0f}, CutCase{1.0f, 0, 0.5f, 0.01f},
                    CutCase{2.0f, 0, 0.999f, 0.0f}, CutCase{1.0f, 0, 1e-30f, 0.0f},
                    CutCase{1.0f, 0, 1.0f, 0.1f}, CutCase{1.0f, 0, 1.0f, 1.0f},
                    CutCase{10.0f, 5000, 1.0f, 0.7f}, CutCase{0.01f, 40, 0.9f, 0.05f}),
    [](const testing::TestParamInfo<CutCase>& info) {
      return "Case" + std::to_string(info.index);
    });

TEST(ExpWeightsTest, AreWithinTwoUlpsOfTheExponential) {
  // Given differences from 0 to -86, in a span with an odd end, when weighed, then so says f64.
  std::vector<float> values(2003);
  for (size_t i = 0; i < values.size(); ++i) values[i] = 5.0f - 0.043f * static_cast<float>(i);
  std::vector<float> weights(values.size());
  ExpWeights(values, 5.0f, 1.0f, weights);
  double total = 0.0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double exact = std::exp(double{values[i] - 5.0f});
    EXPECT_NEAR(weights[i] / exact, 1.0, 2.4e-7) << values[i] - 5.0f;
    total += exact;
  }
  EXPECT_NEAR(SumWeights(values, 5.0f, 1.0f) / total, 1.0, 1e-7);
  // And impossible ids weigh next to nothing.
  EXPECT_NEAR(SumWeights(std::vector<float>{0.0f, -kInf, -1000.0f}, 0.0f, 1.0f), 1.0, 1e-30);
}

TEST(SelectTopKTest, FindsTheKFirstOfManyTilesAndNeverAnImpossibleId) {
  // Given 40 tiles where 700 ids are possible, some of them equal.
  std::vector<float> row(40 * kLogitTile - 3, -kInf);
  for (int i = 0; i < 700; ++i) row[(i * 7919) % row.size()] = static_cast<float>(i % 500);
  std::vector<Candidate> sorted;
  for (size_t i = 0; i < row.size(); ++i) {
    if (row[i] != -kInf) sorted.push_back({row[i], static_cast<int32_t>(i)});
  }
  ASSERT_EQ(sorted.size(), 700u);
  std::sort(sorted.begin(), sorted.end(), ComesFirst);
  std::vector<float> tile_max, scratch;
  ASSERT_TRUE(ScanTiles(row, tile_max));
  for (const size_t k : {0, 1, 2, 17, 39, 40, 41, 699, 700, 701, 10000}) {
    // When the k first are selected, then they are those of a sort.
    std::vector<Candidate> found = {{.value = 1.0f, .id = 1}};
    SelectTopK(row, tile_max, static_cast<int>(k), scratch, found);
    std::sort(found.begin(), found.end(), ComesFirst);
    ASSERT_EQ(found.size(), std::min<size_t>(k, 700));
    for (size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i].id, sorted[i].id) << k;
  }
}

class RealVocabularyTest : public testing::TestWithParam<CutCase> {};

TEST_P(RealVocabularyTest, DrawsAndScoresLikeTheReference) {
  // Given a flat row of 262144 ids.
  const CutCase& c = GetParam();
  const std::vector<float> logits = RandomRow(262144, 1.5f, 7);
  const SamplingParams params = {.temperature = c.temperature,
                                 .top_k = c.top_k,
                                 .top_p = c.top_p,
                                 .min_p = c.min_p,
                                 .seed = 5};
  const std::vector<int32_t> kept = ReferenceIds(logits, params);
  double total = 0.0;
  for (const int32_t id : kept) total += std::exp(double{logits[id]} / c.temperature);
  for (int position = 0; position < 5; ++position) {
    // When one id is drawn, then it is the reference's, and so is its probability.
    const SampleRequest request = {
        .params = &params, .position = position, .logprobs = {.enabled = true, .processed = true}};
    const SampledToken token = SampleOnce(logits, request);
    EXPECT_EQ(token.id, ReferenceDraw(logits, kept, request));
    EXPECT_NEAR(token.logprob, logits[token.id] / c.temperature - std::log(total), 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Cuts, RealVocabularyTest,
                         testing::Values(CutCase{1.0f, 64, 0.95f, 0.0f},
                                         CutCase{1.0f, 0, 0.9f, 0.0f}, CutCase{0.8f, 0, 1.0f, 0.0f},
                                         CutCase{1.0f, 0, 1.0f, 0.02f},
                                         CutCase{1.0f, 5000, 0.9f, 0.0f}),
                         [](const testing::TestParamInfo<CutCase>& info) {
                           return "Case" + std::to_string(info.index);
                         });

TEST(SampleTest, TiesAreCutAndDrawnInFavourOfTheLowerId) {
  const std::vector<float> logits(600, 2.0f);
  // Given 600 equal logits, when top-k, top-p or both cut them, then the lowest ids stay.
  EXPECT_THAT(KeptIds(logits, {.top_k = 3}), ElementsAre(0, 1, 2));
  EXPECT_EQ(KeptIds(logits, {.top_p = 0.5f}).size(), 300u);
  EXPECT_EQ(KeptIds(logits, {.top_p = 0.5f}).back(), 299);
  EXPECT_THAT(KeptIds(logits, {.top_k = 4, .top_p = 0.5f}), ElementsAre(0, 1));
  // And greedy takes the lowest.
  const SamplingParams greedy = {.temperature = 0.0f};
  EXPECT_EQ(SampleOnce(logits, {.params = &greedy}).id, 0);
}

TEST(SampleTest, TopPAlwaysKeepsOneAndNearlyOneKeepsAll) {
  const std::vector<float> logits = {0.0f, 1.0f, 0.5f, -1.0f};
  EXPECT_THAT(KeptIds(logits, {.top_p = 1e-38f}), ElementsAre(1));
  EXPECT_THAT(KeptIds(logits, {.top_p = std::nextafter(1.0f, 0.0f)}), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(KeptIds(logits, {.top_p = 1.0f}), ElementsAre(0, 1, 2, 3));
}

TEST(SampleTest, TheOnlyIdLeftIsDrawnWhateverTheCuts) {
  // Given a row where one id is above -inf.
  std::vector<float> logits(777, -kInf);
  logits[500] = -12.0f;
  for (const SamplingParams& params :
       {SamplingParams{}, SamplingParams{.temperature = 0.0f}, SamplingParams{.top_k = 10},
        SamplingParams{.top_p = 0.3f}, SamplingParams{.min_p = 1.0f}}) {
    // When sampled, then it is that id with certainty.
    const SampledToken token =
        SampleOnce(logits, {.params = &params, .logprobs = {.enabled = true, .processed = true}});
    EXPECT_TRUE(token.finite);
    EXPECT_EQ(token.id, 500);
    EXPECT_EQ(token.logprob, 0.0f);
  }
}

// The statistic of sum (observed - expected)^2 / expected against its 1 - 1e-4 quantile.
double ChiSquare(const std::vector<int>& observed, const std::vector<double>& expected) {
  double sum = 0.0;
  for (size_t i = 0; i < observed.size(); ++i) {
    sum += (observed[i] - expected[i]) * (observed[i] - expected[i]) / expected[i];
  }
  return sum;
}
constexpr double kChiSquare15 = 44.26;    // 15 degrees of freedom
constexpr double kChiSquare255 = 347.65;  // 255 degrees of freedom

std::vector<double> Softmax(const std::vector<float>& logits, float temperature) {
  std::vector<double> p;
  double total = 0.0;
  for (const float l : logits) total += p.emplace_back(std::exp(l / temperature));
  for (double& x : p) x /= total;
  return p;
}

TEST(SampleTest, FrequenciesOverPositionsAreTheProbabilities) {
  // Given 16 ids and 400000 positions, when drawn, then a chi-square test accepts the frequencies.
  constexpr int kDraws = 400000;
  const std::vector<float> logits = RandomRow(16, 1.0f, 3);
  const SamplingParams params = {.temperature = 0.8f, .seed = 42};
  std::vector<int> observed(16);
  SampleScratch scratch;
  for (int i = 0; i < kDraws; ++i) {
    ++observed[Sample(logits, {.params = &params, .position = i}, {}, scratch).id];
  }
  std::vector<double> expected = Softmax(logits, 0.8f);
  for (double& x : expected) x *= kDraws;
  EXPECT_LT(ChiSquare(observed, expected), kChiSquare15);
}

TEST(SampleTest, FrequenciesOverSeedsAreTheProbabilitiesOfTheCutRow) {
  // Given the two top cuts, which leave 4 of 16 equal pairs, and one seed per draw.
  constexpr int kDraws = 200000;
  std::vector<float> logits(16);
  for (int i = 0; i < 16; ++i) logits[i] = -0.1f * static_cast<float>(i / 2);
  SamplingParams params = {.top_k = 8, .top_p = 0.55f};
  const std::vector<int32_t> kept = ReferenceIds(logits, params);
  ASSERT_EQ(kept.size(), 5u);
  std::vector<int> observed(5);
  SampleScratch scratch;
  for (int i = 0; i < kDraws; ++i) {
    params.seed = i;
    const int32_t id = Sample(logits, {.params = &params, .position = 9}, {}, scratch).id;
    ASSERT_LT(id, 5);
    ++observed[id];
  }
  std::vector<double> expected = Softmax({0.0f, 0.0f, -0.1f, -0.1f, -0.2f}, 1.0f);
  for (double& x : expected) x *= kDraws;
  EXPECT_LT(ChiSquare(observed, expected), 23.51);  // 4 degrees of freedom
}

TEST(SampleTest, SeedsPositionsAndChoicesAreIndependentStreams) {
  // Given a uniform row of 16 ids, when pairs of draws differ in one input only, then all 256 pairs
  // are equally frequent.
  constexpr int kDraws = 100000;
  const std::vector<float> logits(16, 0.0f);
  SampleScratch scratch;
  const auto draw = [&](uint64_t seed, int choice, int64_t position) {
    const SamplingParams params = {.seed = seed};
    const SampleRequest request = {.params = &params, .choice = choice, .position = position};
    return Sample(logits, request, {}, scratch).id;
  };
  std::vector<int> by_seed(256), by_high_seed(256), by_choice(256), by_position(256);
  for (int i = 0; i < kDraws; ++i) {
    const int32_t first = draw(2 * i, 0, 100);
    ++by_seed[16 * first + draw(2 * i + 1, 0, 100)];
    ++by_high_seed[16 * first + draw(2 * i + (1ULL << 40), 0, 100)];
    ++by_choice[16 * first + draw(2 * i, 1, 100)];
    ++by_position[16 * first + draw(2 * i, 0, 101)];
  }
  const std::vector<double> expected(256, kDraws / 256.0);
  EXPECT_LT(ChiSquare(by_seed, expected), kChiSquare255);
  EXPECT_LT(ChiSquare(by_high_seed, expected), kChiSquare255);
  EXPECT_LT(ChiSquare(by_choice, expected), kChiSquare255);
  EXPECT_LT(ChiSquare(by_position, expected), kChiSquare255);
}

TEST(SampleTest, ADrawDependsOnSeedChoicePositionAndLogitsAlone) {
  // Given one request on another row of the batch, with logprobs, and scratch full of other work.
  const std::vector<float> logits = RandomRow(3000, 2.0f, 1);
  const SamplingParams params = {.top_k = 50, .top_p = 0.9f, .seed = 77};
  const SampleRequest request = {.params = &params, .choice = 1, .position = 1234};
  SampleRequest other = request;
  other.row = 9;
  other.logprobs = {.enabled = true, .top = 5};
  SampleScratch scratch;
  const SamplingParams pure = {.banned = {1, 2}};
  Sample(RandomRow(5000, 1.0f, 2), {.params = &pure}, {}, scratch);
  // When both are sampled, then the ids agree.
  EXPECT_EQ(Sample(logits, other, {}, scratch).id, SampleOnce(logits, request).id);
}

TEST(SampleTest, GreedyIgnoresTheCutsAndNeedsNoSeed) {
  std::vector<float> logits = RandomRow(2000, 1.0f, 5);
  logits[1500] = logits[1700] = 9.0f;
  const SamplingParams params = {.temperature = 0.0f, .top_k = 5, .top_p = 0.1f, .min_p = 0.5f};
  EXPECT_EQ(SampleOnce(logits, {.params = &params}).id, 1500);
}

TEST(SampleTest, MasksBansAndAllowListsRemoveIds) {
  const std::vector<float> logits = {5.0f, 4.0f, 3.0f, 2.0f, 1.0f, 0.0f};
  // Given every way to forbid an id, when the rest is listed, then the forbidden are gone.
  const SamplingParams params = {
      .logit_bias = {{2, -100.0f}}, .banned = {1, -3, 1000}, .allowed = {0, 1, 2, 3, 4, 99}};
  const std::vector<int32_t> masked = {0};
  std::vector<int32_t> left;
  for (const auto& [id, logprob] : Distribution(logits, {.params = &params, .masked = masked})) {
    left.push_back(id);
  }
  EXPECT_THAT(left, ElementsAre(3, 4));
  // And suppressed ids are gone as well, whether or not the row still holds their logits.
  const SamplingParams greedy = {.temperature = 0.0f};
  EXPECT_EQ(SampleOnce(logits, {.params = &greedy}, {0, 1}).id, 2);
}

TEST(SampleTest, ABiasNeverRevivesAMaskedId) {
  const std::vector<float> logits = {1.0f, 0.0f};
  const SamplingParams params = {.temperature = 0.0f, .logit_bias = {{0, 100.0f}}, .banned = {0}};
  EXPECT_EQ(SampleOnce(logits, {.params = &params}).id, 1);
}

TEST(SampleTest, PenaltiesFollowTheirFormulas) {
  // Given ids seen in the prompt (0, 1), in the output (1 twice, 2 once) or not at all (3).
  const std::vector<float> logits = {2.0f, 3.0f, -1.0f, 0.0f};
  const TokenCounts counts = {.output = {{1, 2}, {2, 1}}, .prompt = {{0, 5}, {1, 1}}};
  const SamplingParams params = {
      .repetition_penalty = 2.0f, .frequency_penalty = 0.25f, .presence_penalty = 0.5f};
  // When sampled, then: 2/2; 3/2 - 2*0.25 - 0.5; -1*2 - 0.25 - 0.5; 0.
  const std::map<int32_t, float> p = Distribution(logits, {.params = &params, .counts = &counts});
  EXPECT_THAT(p.at(0) - p.at(3), FloatNear(1.0f, 1e-6));
  EXPECT_THAT(p.at(1) - p.at(3), FloatNear(0.5f, 1e-6));
  EXPECT_THAT(p.at(2) - p.at(3), FloatNear(-2.75f, 1e-6));
}

TEST(SampleTest, BiasComesBeforePenalties) {
  // Given logit 4 with bias -5 and repetition penalty 2: (4 - 5) * 2, not 4 / 2 - 5.
  const std::vector<float> logits = {4.0f, 0.0f};
  const TokenCounts counts = {.output = {{0, 1}}};
  const SamplingParams params = {.repetition_penalty = 2.0f, .logit_bias = {{0, -5.0f}}};
  const std::map<int32_t, float> p = Distribution(logits, {.params = &params, .counts = &counts});
  EXPECT_THAT(p.at(0) - p.at(1), FloatNear(-2.0f, 1e-6));
}

TEST(SampleTest, PenaltiesComeBeforeTemperatureAndTheCuts) {
  // Given the best id penalized below the second, when one is kept, then it is the second.
  const std::vector<float> logits = {2.0f, 1.5f, 0.0f};
  const TokenCounts counts = {.output = {{0, 1}}};
  const SamplingParams one = {.temperature = 0.5f, .top_k = 1, .presence_penalty = 1.0f};
  EXPECT_EQ(SampleOnce(logits, {.params = &one, .counts = &counts}).id, 1);
  // And the penalty is divided by the temperature, not taken off afterwards.
  const SamplingParams all = {.temperature = 0.5f, .presence_penalty = 1.0f};
  const std::map<int32_t, float> p = Distribution(logits, {.params = &all, .counts = &counts});
  EXPECT_THAT(p.at(0) - p.at(2), FloatNear(2.0f, 1e-6));
}

TEST(SampleTest, TemperatureThenTopKThenTopPThenMinP) {
  // Probabilities .4 .3 .2 .1 at temperature 1.
  const std::vector<float> logits = {std::log(.4f), std::log(.3f), std::log(.2f), std::log(.1f)};
  // Top-p counts the mass of what top-k left: .4 / .7 = .571, so .58 needs two, .56 one.
  EXPECT_THAT(KeptIds(logits, {.top_k = 2, .top_p = 0.56f}), ElementsAre(0));
  EXPECT_THAT(KeptIds(logits, {.top_k = 2, .top_p = 0.58f}), ElementsAre(0, 1));
  // Top-p does not see what min-p will take: .4 + .3 < .75 needs the third, which min-p then drops.
  // The other way round .4 / .7 + .3 / .7 would already be all.
  EXPECT_THAT(KeptIds(logits, {.top_p = 0.95f, .min_p = 0.6f}), ElementsAre(0, 1));
  EXPECT_THAT(KeptIds(logits, {.top_p = 0.45f, .min_p = 0.6f}), ElementsAre(0, 1));
  // Temperature comes first: at 0.5 the weights are .16 .09 .04 .01.
  EXPECT_THAT(KeptIds(logits, {.temperature = 0.5f, .min_p = 0.6f}), ElementsAre(0));
  EXPECT_THAT(KeptIds(logits, {.temperature = 0.5f, .top_p = 0.8f}), ElementsAre(0, 1));
}

TEST(SampleTest, AMinusculePenaltyDivisorStaysFinite) {
  // Given logits that the penalty takes past the range of a float.
  const std::vector<float> logits = {20.0f, 25.0f, 1.0f};
  const TokenCounts counts = {.output = {{0, 1}, {1, 1}}};
  const SamplingParams params = {.repetition_penalty = 1e-38f};
  // When sampled, then one of them is drawn with a proper probability.
  const SampledToken token = SampleOnce(
      logits,
      {.params = &params, .counts = &counts, .logprobs = {.enabled = true, .processed = true}});
  EXPECT_TRUE(token.finite);
  EXPECT_LT(token.id, 2);
  EXPECT_LE(token.logprob, 0.0f);
}

TEST(SampleTest, BrokenRowsAreReportedNotSampled) {
  const SamplingParams greedy = {.temperature = 0.0f};
  const SamplingParams pure;
  for (const SamplingParams* params :
       {&greedy, &pure, static_cast<const SamplingParams*>(nullptr)}) {
    const SampleRequest request = {.params = params, .score_id = 0};
    // Given NaN or +inf at the start, in the middle or in the odd end of a row.
    for (const float bad : {kNan, kInf}) {
      for (const size_t at : {0u, 100u, 1030u}) {
        std::vector<float> logits(1031, 1.0f);
        logits[at] = bad;
        // When sampled, then the row is refused.
        EXPECT_FALSE(SampleOnce(logits, request).finite) << bad << " at " << at;
      }
    }
    // And so is a row without any value.
    EXPECT_FALSE(SampleOnce(std::vector<float>(300, -kInf), request).finite);
    EXPECT_FALSE(SampleOnce({1.0f, 2.0f}, request, {0, 1}).finite);
  }
  // And a row whose every id was masked; a NaN is not excused by being banned.
  const SamplingParams banned = {.banned = {0, 1}};
  EXPECT_FALSE(SampleOnce({1.0f, 2.0f}, {.params = &banned}).finite);
  EXPECT_FALSE(SampleOnce({kNan, 2.0f, 3.0f}, {.params = &banned}).finite);
  // And a penalty does not bring a banned id back.
  const SamplingParams penalized = {.repetition_penalty = 2.0f, .banned = {0, 1}};
  const TokenCounts counts = {.output = {{0, 1}}};
  EXPECT_FALSE(SampleOnce({1.0f, 2.0f}, {.params = &penalized, .counts = &counts}).finite);
}

// A few ids of a row with their logits, in no order, and the row that is -inf everywhere else.
struct Sparse {
  Sparse(int vocab, int count, uint32_t seed) : row(vocab, -kInf) {
    std::mt19937 random(seed);
    std::vector<int32_t> ids(vocab);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), random);
    std::normal_distribution<float> normal(0.0f, 2.0f);
    for (int i = 0; i < count; ++i) {
      row[ids[i]] = i % 9 == 8 ? row[ids[i - 1]] : normal(random);  // some ties
      candidates.push_back({row[ids[i]], ids[i]});
    }
  }
  std::vector<float> row;
  std::vector<Candidate> candidates;
};

SampledToken SampleAmongOnce(std::vector<Candidate> candidates, const SampleRequest& request,
                             const std::vector<int32_t>& suppressed = {}) {
  SampleScratch scratch;
  return SampleAmong(candidates, request, suppressed, scratch);
}

TEST(SampleAmongTest, DrawsWhatTheWholeRowWouldDraw) {
  // Given requests that use every rule.
  const std::vector<SamplingParams> requests = {
      {.temperature = 0.0f},
      {.seed = 1},
      {.temperature = 0.7f, .top_k = 20, .seed = 2},
      {.temperature = 1.5f, .top_p = 0.8f, .seed = 3},
      {.top_k = 500, .top_p = 0.9f, .min_p = 0.02f, .seed = 4},
      {.temperature = 0.0f, .repetition_penalty = 3.0f, .presence_penalty = 1.0f},
      {.repetition_penalty = 0.5f, .frequency_penalty = 0.7f, .seed = 5},
      {.seed = 6,
       .logit_bias = {{3, 4.0f}, {77, -100.0f}, {100000, 5.0f}},
       .banned = {5, 6, 7, -1}},
      {.seed = 7, .allowed = {900, 12, 12, 500, 31, 44, 45, 46, 47, 48, 49, 50}},
  };
  const std::vector<int32_t> masked = {0, 1, 2, 3}, drafted = {41, 42, 41}, suppressed = {998, 9};
  TokenCounts counts;
  for (int id = 0; id < 1000; id += 7) counts.output[id] = 1 + id % 3;
  for (int id = 0; id < 1000; id += 5) counts.prompt[id] = 1;
  int drawn = 0;
  for (const SamplingParams& params : requests) {
    for (const int count : {1, 2, 60, 700, 3000}) {
      const Sparse sparse(count > 1000 ? 5000 : 1000, count, 31 + count);
      for (int position = 0; position < 30; ++position) {
        const SampleRequest request = {.params = &params,
                                       .choice = 2,
                                       .position = position,
                                       .counts = &counts,
                                       .drafted = drafted,
                                       .masked = masked};
        // When drawn from the few and from the row.
        const SampledToken want = SampleOnce(sparse.row, request, suppressed);
        const SampledToken got = SampleAmongOnce(sparse.candidates, request, suppressed);
        // Then it is the same id, or neither has one.
        ASSERT_EQ(got.finite, want.finite) << count << " candidates";
        ASSERT_EQ(got.id, want.id) << count << " candidates at position " << position;
        drawn += got.finite ? 1 : 0;
      }
    }
  }
  EXPECT_GT(drawn, 1000);
}

TEST(SampleAmongTest, GreedyTiesGoToTheLowestIdWhateverTheOrder) {
  const SamplingParams greedy = {.temperature = 0.0f};
  EXPECT_EQ(SampleAmongOnce({{1.0f, 9}, {2.0f, 7}, {2.0f, 3}, {2.0f, 5}}, {.params = &greedy}).id,
            3);
  EXPECT_EQ(SampleAmongOnce({{1.0f, 9}, {2.0f, 7}, {2.0f, 3}}, {.params = &greedy}, {3}).id, 7);
}

TEST(SampleAmongTest, BrokenOrEmptyListsAreReportedNotSampled) {
  const SamplingParams greedy = {.temperature = 0.0f};
  const SamplingParams pure;
  for (const SamplingParams* params : {&greedy, &pure}) {
    const SampleRequest request = {.params = params};
    EXPECT_FALSE(SampleAmongOnce({{1.0f, 4}, {kNan, 5}}, request).finite);
    EXPECT_FALSE(SampleAmongOnce({{kInf, 4}, {1.0f, 5}}, request).finite);
    EXPECT_FALSE(SampleAmongOnce({{1.0f, 4}}, request, {4}).finite);
    EXPECT_FALSE(SampleAmongOnce({{-kInf, 4}}, request).finite);
    EXPECT_FALSE(SampleAmongOnce({}, request).finite);
    EXPECT_EQ(SampleAmongOnce({{-kInf, 4}, {1.0f, 5}}, request).id, 5);
  }
}

TEST(LogprobTest, RawComesFromTheModelsOwnLogits) {
  // Given a row, and a request that bends it with everything there is.
  const std::vector<float> logits = RandomRow(1000, 2.0f, 11);
  const TokenCounts counts = {.output = {{3, 4}}, .prompt = {{5, 1}}};
  const SamplingParams params = {.temperature = 0.3f,
                                 .top_k = 5,
                                 .repetition_penalty = 1.5f,
                                 .logit_bias = {{7, 50.0f}},
                                 .banned = {9}};
  const SampledToken token = SampleOnce(
      logits, {.params = &params, .counts = &counts, .logprobs = {.enabled = true, .top = 20}});
  ASSERT_EQ(token.id, 7);
  // When logprobs are raw, then they are the log-softmax of the logits as they were.
  double total = 0.0;
  int rank = 1;
  for (const float l : logits) {
    total += std::exp(double{l});
    rank += l > logits[7] ? 1 : 0;
  }
  EXPECT_NEAR(token.logprob, logits[7] - std::log(total), 1e-6);
  EXPECT_EQ(token.rank, rank);
  ASSERT_EQ(token.top.size(), 20u);
  std::vector<int32_t> ids(1000);
  std::iota(ids.begin(), ids.end(), 0);
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(token.top[i].id, ids[i]);
    EXPECT_NEAR(token.top[i].logprob, logits[ids[i]] - std::log(total), 1e-6);
  }
}

TEST(LogprobTest, SuppressedIdsHaveNoShareOfTheMass) {
  // Given two equal ids and a suppressed third that the row still holds.
  const SampledToken token =
      SampleOnce({1.0f, 1.0f, 8.0f}, {.logprobs = {.enabled = true, .top = 3}, .score_id = 2}, {2});
  // When the suppressed one is scored, then it is impossible and the others share the mass.
  EXPECT_EQ(token.logprob, kLowestLogprob);
  EXPECT_EQ(token.rank, 3);
  ASSERT_EQ(token.top.size(), 3u);
  EXPECT_NEAR(token.top[0].logprob, std::log(0.5), 1e-6);
  EXPECT_EQ(token.top[1].id, 1);
  EXPECT_EQ(token.top[2].id, 2);
  EXPECT_EQ(token.top[2].logprob, kLowestLogprob);
}

TEST(LogprobTest, AScoredPromptTokenIsNotDrawn) {
  const SampledToken token = SampleOnce({0.0f, 2.0f, 2.0f}, {.score_id = 0});
  EXPECT_EQ(token.id, 0);
  EXPECT_NEAR(token.logprob, -std::log(1.0 + 2.0 * std::exp(2.0)), 1e-6);
  EXPECT_EQ(token.rank, 3);
  EXPECT_TRUE(token.top.empty());
}

TEST(LogprobTest, TopIsFallingWithTiesToTheLowerIdAndRankCountsOnlyBetterOnes) {
  const std::vector<float> logits = {1.0f, 3.0f, 3.0f, 0.0f, 3.0f, 1.0f};
  const SamplingParams greedy = {.temperature = 0.0f};
  const SampledToken token =
      SampleOnce(logits, {.params = &greedy, .logprobs = {.enabled = true, .top = 4}});
  std::vector<int32_t> ids;
  for (const TopLogprob& t : token.top) ids.push_back(t.id);
  EXPECT_THAT(ids, ElementsAre(1, 2, 4, 0));
  EXPECT_EQ(SampleOnce(logits, {.score_id = 4}).rank, 1);
  EXPECT_EQ(SampleOnce(logits, {.score_id = 5}).rank, 4);
}

TEST(LogprobTest, ProcessedGreedyIsCertainAndTheRestImpossible) {
  const SamplingParams greedy = {.temperature = 0.0f};
  const SampledToken token =
      SampleOnce({0.0f, 1.0f, 4.0f},
                 {.params = &greedy, .logprobs = {.enabled = true, .top = 2, .processed = true}});
  EXPECT_EQ(token.id, 2);
  EXPECT_EQ(token.logprob, 0.0f);
  EXPECT_EQ(token.rank, 1);
  ASSERT_EQ(token.top.size(), 2u);
  EXPECT_EQ(token.top[0].id, 2);
  EXPECT_EQ(token.top[1].id, 0);
  EXPECT_EQ(token.top[1].logprob, kLowestLogprob);
}

TEST(LogprobTest, NothingIsReportedUnasked) {
  const SamplingParams params;
  const SampledToken token = SampleOnce({0.0f, 1.0f}, {.params = &params});
  EXPECT_EQ(token.logprob, 0.0f);
  EXPECT_EQ(token.rank, 0);
  EXPECT_TRUE(token.top.empty());
}

TEST(IsPlainGreedyTest, OnlyWhenNothingButTheLargestLogitMatters) {
  const SamplingParams greedy = {.temperature = 0.0f, .top_k = 3, .top_p = 0.2f};
  EXPECT_TRUE(IsPlainGreedy({.params = &greedy}));
  EXPECT_FALSE(IsPlainGreedy({.params = nullptr, .score_id = 1}));
  EXPECT_FALSE(IsPlainGreedy({.params = &greedy, .logprobs = {.enabled = true}}));
  const std::vector<int32_t> masked = {1};
  EXPECT_FALSE(IsPlainGreedy({.params = &greedy, .masked = masked}));
  for (const SamplingParams& params :
       {SamplingParams{}, SamplingParams{.temperature = 0.0f, .repetition_penalty = 1.1f},
        SamplingParams{.temperature = 0.0f, .frequency_penalty = 0.1f},
        SamplingParams{.temperature = 0.0f, .presence_penalty = 0.1f},
        SamplingParams{.temperature = 0.0f, .logit_bias = {{1, 2.0f}}},
        SamplingParams{.temperature = 0.0f, .banned = {1}},
        SamplingParams{.temperature = 0.0f, .allowed = {1}}}) {
    EXPECT_FALSE(IsPlainGreedy({.params = &params}));
  }
}

}  // namespace
}  // namespace tandem::engine
