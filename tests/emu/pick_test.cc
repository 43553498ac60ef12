// Picking tokens under emulation, against the host's sampler and a sort.
#include "kernels/cuda/pick.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/pick_passes.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/pick_problem.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

struct Problem {
  int vocab = 0;
  int64_t stride = 0;
  DeviceVector<float> logits = {};  // [rows, stride]
  std::vector<int32_t> suppressed = {};
  DeviceVector<PickRequest> requests = {};
  bool cuts = true;

  DeviceVector<float> Row(int row) const {
    const auto begin = logits.begin() + row * stride;
    return DeviceVector<float>(begin, begin + vocab);
  }
};

// Normal logits, each row of another spread; some of them are equal, and some -infinity.
Problem RandomProblem(int rows, int vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Problem p = {.vocab = vocab, .stride = (vocab + 7) / 8 * 8 + 8};
  p.logits.assign(rows * p.stride, NAN);
  for (int r = 0; r < rows; ++r) {
    float* const row = p.logits.data() + r * p.stride;
    const float spread = r % 3 == 0 ? 4.0f : r % 3 == 1 ? 1.0f : 0.2f;
    for (int v = 0; v < vocab; ++v) row[v] = spread * normal(random);
    if (r % 2 == 1) {
      for (int v = 0; v < vocab; ++v) row[v] = std::round(row[v] * 8.0f) / 8.0f;
    }
    for (int v = 3; v < vocab; v += 11) row[v] = -kInf;
  }
  return p;
}

struct Picked {
  DeviceVector<int32_t> ids, finite;
  DeviceVector<std::byte> workspace;
};

DeviceVector<uint32_t> MaskOf(const Problem& p) {
  DeviceVector<uint32_t> mask(p.suppressed.empty() ? 0 : (p.vocab + 31) / 32);
  for (const int32_t id : p.suppressed) mask[id / 32] |= 1u << id % 32;
  return mask;
}

Picked Pick(const Problem& p, KernelStream* stream) {
  const int count = static_cast<int>(p.requests.size());
  const size_t bytes = K_WORLD::PickWorkspaceBytes(count, p.vocab, p.cuts);
  // The workspace holds whatever was there.
  Picked picked = {DeviceVector<int32_t>(count, -7), DeviceVector<int32_t>(count, -7),
                   DeviceVector<std::byte>(bytes, std::byte{0xa5})};
  const DeviceVector<uint32_t> mask = MaskOf(p);
  K_WORLD::Pick({.logits = p.logits.data(),
                 .stride = p.stride,
                 .suppressed = mask.empty() ? nullptr : mask.data(),
                 .requests = p.requests.data(),
                 .count = count,
                 .vocab = p.vocab,
                 .cuts = p.cuts,
                 .workspace = picked.workspace.data(),
                 .ids = picked.ids.data(),
                 .finite = picked.finite.data()},
                stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return picked;
}

// As engine::Sample draws.
engine::SampledToken OnHost(const Problem& p, const PickRequest& request) {
  engine::SampleScratch scratch;
  const HostRequest host(request);
  const DeviceVector<float> row = p.Row(request.row);
  return engine::Sample({row.data(), row.size()}, host.request(), p.suppressed, scratch);
}

std::string Words(const PickRequest& r) {
  return "row " + std::to_string(r.row) + " temperature " + std::to_string(r.temperature) +
         " top_k " + std::to_string(r.top_k) + " top_p " + std::to_string(r.top_p) + " min_p " +
         std::to_string(r.min_p) + " seed " + std::to_string(r.seed);
}

void ExpectHostsIds(const Problem& p, const Picked& picked) {
  for (size_t i = 0; i < p.requests.size(); ++i) {
    const engine::SampledToken want = OnHost(p, p.requests[i]);
    EXPECT_EQ(picked.finite[i], want.finite ? 1 : 0) << i << ": " << Words(p.requests[i]);
    EXPECT_EQ(picked.ids[i], want.id) << i << ": " << Words(p.requests[i]);
  }
}

SortedCuts Sorted(const Problem& p, const PickRequest& request) {
  const DeviceVector<float> row = p.Row(request.row);
  std::vector<Token> tokens;
  for (int v = 0; v < p.vocab; ++v) {
    const bool suppressed =
        std::find(p.suppressed.begin(), p.suppressed.end(), v) != p.suppressed.end();
    tokens.push_back({suppressed ? -kInf : row[v], v});
  }
  return CutBySorting(tokens, request);
}

// Requests that rounding does not decide: weights are f32 on the device and f64 on the host, and
// the logarithms of the noise are those of two libraries.
void AddRequests(Problem* p, int per_row, uint32_t seed) {
  std::mt19937 random(seed);
  const int rows = static_cast<int>(p->logits.size() / p->stride);
  for (int i = 0; i < per_row * rows; ++i) {
    PickRequest request;
    do {
      request = RandomRequest(i % rows, p->vocab, random);
    } while (!IsClear(Sorted(*p, request), request));
    p->requests.push_back(request);
  }
}

class PickHostTest : public testing::TestWithParam<int> {};

TEST_P(PickHostTest, IdsAreThoseOfTheHostInEverySchedule) {
  // Given rows with ties and gaps, requests of every kind, several for a row, and suppressed ids.
  Problem p = RandomProblem(5, GetParam(), 1);
  for (int id = 2; id < p.vocab; id = id * 2 + 3) p.suppressed.push_back(id);
  AddRequests(&p, 4, 2);
  // When they are picked, then host and device agree, in whatever order threads run.
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    ExpectHostsIds(p, Pick(p, &stream));
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, PickHostTest, testing::Values(1, 7, 1000, 4095, 4096, 9001),
                         testing::PrintToStringParamName());

TEST(PickFullRowTest, TheLargestVocabularyOfAModelAgreesToo) {
  Problem p = RandomProblem(2, 262144, 3);
  p.suppressed = {5, 258882, 258883};
  p.requests = {
      {.row = 0, .temperature = 0.0f},
      {.seed = 1, .position = 70000, .row = 1, .temperature = 1.0f},
      {.seed = 2, .position = 3, .row = 0, .temperature = 1.0f, .top_k = 64, .top_p = 0.95f},
      {.seed = 3, .row = 1, .temperature = 0.8f, .top_p = 0.9f, .min_p = 0.05f},
  };
  KernelStream stream({}, /*os_threads=*/2);
  ExpectHostsIds(p, Pick(p, &stream));
}

// What the cuts left, from what the passes leave behind, ids rising.
std::vector<int32_t> LeftIds(const Problem& p, Picked& picked, size_t index) {
  K_WORLD::PickPasses passes;
  K_WORLD::PlacePasses({.count = static_cast<int>(p.requests.size()),
                        .vocab = p.vocab,
                        .workspace = picked.workspace.data()},
                       &passes);
  const K_WORLD::PickCut& cut = passes.cuts[index];
  const bool negative = cut.key >> 31 == 0;
  const float last = std::bit_cast<float>(negative ? ~cut.key : cut.key & 0x7fffffffu);
  const PickRequest& request = p.requests[index];
  const DeviceVector<float> row = p.Row(request.row);
  const float max = *std::max_element(row.begin(), row.end());
  std::vector<int32_t> left;
  for (int v = 0; v < p.vocab; ++v) {
    const bool before = row[v] > last || (row[v] == last && v <= cut.last_id);
    const double weight = std::exp((double{row[v]} - max) / request.temperature);
    if (before && weight >= request.min_p) left.push_back(v);
  }
  return left;
}

std::vector<int32_t> SortedIds(const Problem& p, const PickRequest& request) {
  std::vector<int32_t> ids;
  for (const Token& token : Sorted(p, request).kept) ids.push_back(token.id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

TEST(PickCutsTest, LeaveWhatASortLeaves) {
  // Given cuts at their ends and between, over values that differ and values that are often equal.
  Problem p = RandomProblem(4, 5003, 4);
  const float below_one = std::nextafter(1.0f, 0.0f);
  for (int row = 0; row < 4; ++row) {
    for (const int k : {0, 1, 17, 300, 5002, 9999}) {
      for (const float top_p : {1.0f, below_one, 0.97f, 0.6f, 0.01f, 1e-30f, 0.0f}) {
        const float min_p = (k + row) % 3 == 0 ? 0.02f : 0.0f;
        const PickRequest request = {
            .row = row, .temperature = 0.9f, .top_k = k, .top_p = top_p, .min_p = min_p};
        // Above all of the mass but for what rounding may take, nobody can say where it ends.
        if (top_p != 1.0f && Sorted(p, request).margin < 1e-6) continue;
        p.requests.push_back(request);
      }
    }
  }
  ASSERT_GT(p.requests.size(), 100u);
  KernelStream stream({}, /*os_threads=*/2);
  Picked picked = Pick(p, &stream);
  for (size_t i = 0; i < p.requests.size(); ++i) {
    ASSERT_EQ(LeftIds(p, picked, i), SortedIds(p, p.requests[i])) << Words(p.requests[i]);
  }
}

TEST(PickCutsTest, EqualLogitsAreCutByIdAndBySharesThatComeOutEven) {
  // Given 9000 equal logits, and two levels of them.
  Problem p = {.vocab = 9000, .stride = 9000};
  p.logits.assign(2 * 9000, -2.5f);
  for (int v = 0; v < 9000; v += 3) p.logits[9000 + v] = 1.0f;
  const auto add = [&](int row, int top_k, float top_p) {
    p.requests.push_back({.row = row, .temperature = 0.5f, .top_k = top_k, .top_p = top_p});
  };
  for (const int k : {1, 5, 4096, 4097, 8999, 9000}) add(0, k, 1.0f);
  for (const float top_p : {0.25f, 0.5f, 0.75f}) add(0, 0, top_p);
  for (const float top_p : {0.25f, 0.5f}) add(0, 1024, top_p);
  for (const int k : {1, 2999, 3000, 3001, 4500}) add(1, k, 1.0f);
  add(1, 3500, 0.999f);
  KernelStream stream({}, /*os_threads=*/2);
  Picked picked = Pick(p, &stream);
  for (size_t i = 0; i < p.requests.size(); ++i) {
    ASSERT_EQ(LeftIds(p, picked, i), SortedIds(p, p.requests[i])) << Words(p.requests[i]);
  }
  ExpectHostsIds(p, picked);
}

TEST(PickCutsTest, WithoutCutsPicksTheSameInLessMemory) {
  // Given requests that cut nothing but by min-p.
  Problem p = RandomProblem(4, 4500, 5);
  AddRequests(&p, 6, 6);
  for (PickRequest& request : p.requests) {
    request.top_k = 0;
    request.top_p = 1.0f;
  }
  KernelStream stream;
  const Picked with = Pick(p, &stream);
  p.cuts = false;
  const Picked without = Pick(p, &stream);
  EXPECT_EQ(with.ids, without.ids);
  EXPECT_LT(without.workspace.size(), with.workspace.size() / 10);
  ExpectHostsIds(p, without);
}

TEST(PickTest, TheLowestOfEqualLogitsWins) {
  Problem p = {.vocab = 8200, .stride = 8200};
  p.logits.assign(3 * 8200, -1.0f);
  for (const int id : {4096, 4099, 8199}) p.logits[id] = 3.0f;
  for (const int id : {900, 8192}) p.logits[8200 + id] = 0.0f;
  p.logits[8200 + 77] = -0.0f;  // equals 0
  p.requests = {{.row = 0}, {.row = 1}, {.row = 2}, {.row = 0, .temperature = 1.0f, .top_k = 1}};
  KernelStream stream;
  EXPECT_THAT(Pick(p, &stream).ids, ElementsAre(4096, 77, 0, 4096));
}

TEST(PickTest, TheOnlyIdLeftIsPickedByEveryRequest) {
  Problem p = {.vocab = 5000, .stride = 5000};
  p.logits.assign(5000, -kInf);
  p.logits[4321] = -88.0f;
  std::mt19937 random(7);
  for (int i = 0; i < 30; ++i) p.requests.push_back(RandomRequest(0, p.vocab, random));
  KernelStream stream;
  const Picked picked = Pick(p, &stream);
  EXPECT_THAT(picked.ids, Each(4321));
  EXPECT_THAT(picked.finite, Each(1));
}

TEST(PickTest, ARowWithoutAnythingToPickIsToldAndHarmsNoOther) {
  // Given a NaN, +infinity, nothing but -infinity, all suppressed; a NaN that is suppressed.
  Problem p = {.vocab = 5000, .stride = 5000};
  p.logits.assign(6 * 5000, 0.0f);
  p.suppressed = {4998, 4999};
  const auto at = [&](int row, int id) -> float& { return p.logits[row * 5000 + id]; };
  at(0, 4200) = NAN;
  at(1, 17) = kInf;
  for (int id = 0; id < 5000; ++id) at(2, id) = at(3, id) = -kInf;
  at(3, 4998) = 5.0f;
  at(4, 4999) = NAN;
  at(5, 4097) = 1.0f;
  for (const float temperature : {0.0f, 1.0f}) {
    for (int row = 0; row < 6; ++row) {
      p.requests.push_back({.row = row, .temperature = temperature, .top_k = 3, .top_p = 0.9f});
    }
  }
  KernelStream stream;
  const Picked picked = Pick(p, &stream);
  EXPECT_THAT(picked.finite, ElementsAre(0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1));
  EXPECT_THAT(std::vector<int32_t>(picked.ids.begin(), picked.ids.begin() + 4), Each(-1));
  ExpectHostsIds(p, picked);
}

TEST(PickTest, ARequestPicksTheSameAloneAndAmongOthersInAnyOrder) {
  Problem p = RandomProblem(3, 4200, 8);
  AddRequests(&p, 4, 9);
  KernelStream stream;
  const Picked together = Pick(p, &stream);
  Problem turned = p;
  std::reverse(turned.requests.begin(), turned.requests.end());
  Picked reversed = Pick(turned, &stream);
  std::reverse(reversed.ids.begin(), reversed.ids.end());
  EXPECT_EQ(reversed.ids, together.ids);
  for (size_t i = 0; i < p.requests.size(); ++i) {
    Problem alone = p;
    alone.requests = {p.requests[i]};
    EXPECT_EQ(Pick(alone, &stream).ids[0], together.ids[i]) << i;
  }
}

TEST(PickTest, RowsOfAnyStrideAreRead) {
  // Given rows that begin anywhere, the last of which ends where its logits do.
  Problem p = RandomProblem(3, 1037, 10);
  Problem tight = {.vocab = p.vocab, .stride = 1037};
  for (int row = 0; row < 3; ++row) {
    for (const float logit : p.Row(row)) tight.logits.push_back(logit);
  }
  AddRequests(&p, 5, 11);
  tight.requests = p.requests;
  KernelStream stream;
  EXPECT_EQ(Pick(tight, &stream).ids, Pick(p, &stream).ids);
}

#if !defined(__CUDACC__)  // calls on the host what is for a device alone
TEST(PickTest, FrequenciesAreTheProbabilities) {
  // Given 16 ids and a million positions, when the largest score wins.
  constexpr int kDraws = 1000000, kIds = 16, kPicked = 300;
  constexpr float kTemperature = 0.8f;
  Problem p = {.vocab = kIds, .stride = kIds, .cuts = false};
  for (int v = 0; v < kIds; ++v) p.logits.push_back(std::sin(2.0f * v));
  const float max = *std::max_element(p.logits.begin(), p.logits.end());
  std::vector<int> observed(kIds);
  std::vector<int32_t> first;
  for (int i = 0; i < kDraws; ++i) {
    const PickRequest request = {.seed = 42, .position = i, .row = 0, .temperature = kTemperature};
    uint64_t best = 0;
    for (int v = 0; v < kIds; v += 4) {
      const auto words = K_WORLD::NoiseWords(request, v / 4);
      const uint32_t word[4] = {words.x, words.y, words.z, words.w};
      for (int j = 0; j < 4; ++j) {
        const float score = K_WORLD::ScoreOf(p.logits[v + j], max, kTemperature, word[j]);
        best = std::max(best, K_WORLD::RankOf(score, v + j));
      }
    }
    ++observed[K_WORLD::IdOfRank(best)];
    if (i < kPicked) {
      first.push_back(K_WORLD::IdOfRank(best));
      p.requests.push_back(request);
    }
  }
  // Then a chi-square test accepts the frequencies, and the kernel picks those winners.
  double total = 0.0, chi_square = 0.0;
  for (const float logit : p.logits) total += std::exp(logit / kTemperature);
  for (int v = 0; v < kIds; ++v) {
    const double expected = kDraws * std::exp(p.logits[v] / kTemperature) / total;
    chi_square += (observed[v] - expected) * (observed[v] - expected) / expected;
  }
  EXPECT_LT(chi_square, 44.26);  // the 1 - 1e-4 quantile of 15 degrees of freedom
  KernelStream stream;
  EXPECT_THAT(Pick(p, &stream).ids, testing::ElementsAreArray(first));
}
#endif

TEST(PickTest, MovesTheBytesOfItsFormula) {
  if (!kCountsTraffic) return;
  const int tiles = 4, vocab = tiles * 4096;
  Problem p = RandomProblem(1, vocab, 12);
  p.suppressed = {1};
  const auto bytes_of = [&](const PickRequest& request, bool cuts) {
    p.requests = {request};
    p.cuts = cuts;
    KernelStream stream;
    Pick(p, &stream);
    return stream.TakeTraffic();
  };
  const double pass = 4.0 * vocab + vocab / 8.0, bins = 16384.0;
  const emu::TrafficBytes greedy = bytes_of({.row = 0}, false);
  EXPECT_GE(greedy.read, pass);
  EXPECT_LE(greedy.read, 1.05 * pass);
  EXPECT_LE(greedy.written, 8.0 * tiles + 100);
  const emu::TrafficBytes drawn = bytes_of({.row = 0, .temperature = 1.0f}, false);
  EXPECT_GE(drawn.read, 2 * pass);
  EXPECT_LE(drawn.read, 1.05 * 2 * pass);
  EXPECT_LE(drawn.written, 16.0 * tiles + 100);
  const emu::TrafficBytes both =
      bytes_of({.row = 0, .temperature = 1.0f, .top_k = 50, .top_p = 0.9f}, true);
  EXPECT_GE(both.read, 8 * pass + 6 * bins);
  EXPECT_LE(both.read, 1.05 * (8 * pass + 6 * bins));
  EXPECT_LE(both.written, 1.05 * 7 * bins);
}

TEST(PickTest, VocabulariesWithoutAKernelAreToldAndNoRequestsAreNoWork) {
  for (const int vocab : {1, 1536, 262144, 1 << 19}) EXPECT_TRUE(K_WORLD::PickSupports(vocab));
  for (const int vocab : {0, -1, (1 << 19) + 1}) EXPECT_FALSE(K_WORLD::PickSupports(vocab));
  KernelStream stream;
  K_WORLD::Pick({.vocab = 100}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
