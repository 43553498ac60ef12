// Picking among the tokens of clusters under emulation, against the host's drafter.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "engine/draft_choice.h"
#include "kernels/cuda/pick.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/pick_problem.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

struct Problem {
  int chosen = 0;
  int cluster_rows = 0;
  int vocab = 0;
  DeviceVector<float> logits = {};         // [rows, chosen * cluster_rows]
  DeviceVector<int32_t> clusters = {};     // [rows, chosen]
  DeviceVector<int32_t> cluster_ids = {};  // [vocab / cluster_rows, cluster_rows]
  std::vector<int32_t> suppressed = {};
  DeviceVector<PickRequest> requests = {};

  int candidates() const { return chosen * cluster_rows; }
};

// Ids in any order over the clusters; half of the rows have many equal logits.
Problem RandomProblem(int rows, int num_clusters, int cluster_rows, int chosen, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Problem p = {
      .chosen = chosen, .cluster_rows = cluster_rows, .vocab = num_clusters * cluster_rows};
  p.cluster_ids.resize(p.vocab);
  std::iota(p.cluster_ids.begin(), p.cluster_ids.end(), 0);
  std::shuffle(p.cluster_ids.begin(), p.cluster_ids.end(), random);
  std::vector<int32_t> clusters(num_clusters);
  std::iota(clusters.begin(), clusters.end(), 0);
  for (int row = 0; row < rows; ++row) {
    std::shuffle(clusters.begin(), clusters.end(), random);
    std::vector<int32_t> some(clusters.begin(), clusters.begin() + chosen);
    std::sort(some.begin(), some.end());
    p.clusters.insert(p.clusters.end(), some.begin(), some.end());
    for (int i = 0; i < p.candidates(); ++i) {
      const float logit = 3.0f * normal(random);
      p.logits.push_back(i % 13 == 5    ? -kInf
                         : row % 2 == 0 ? logit
                                        : std::round(logit * 4.0f) / 4.0f);
    }
  }
  return p;
}

struct Picked {
  DeviceVector<int32_t> ids, finite;
};

Picked PickAmong(const Problem& p, KernelStream* stream) {
  Picked picked = {DeviceVector<int32_t>(p.requests.size(), -7),
                   DeviceVector<int32_t>(p.requests.size(), -7)};
  DeviceVector<uint32_t> mask((p.vocab + 31) / 32);
  for (const int32_t id : p.suppressed) mask[id / 32] |= 1u << id % 32;
  K_WORLD::PickAmong({.logits = p.logits.data(),
                      .stride = p.candidates(),
                      .clusters = p.clusters.data(),
                      .cluster_ids = p.cluster_ids.data(),
                      .chosen = p.chosen,
                      .cluster_rows = p.cluster_rows,
                      .suppressed = p.suppressed.empty() ? nullptr : mask.data(),
                      .requests = p.requests.data(),
                      .count = static_cast<int>(p.requests.size()),
                      .ids = picked.ids.data(),
                      .finite = picked.finite.data()},
                     stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return picked;
}

void ExpectHostsIds(const Problem& p, const Picked& picked) {
  engine::ChoiceScratch scratch;
  for (size_t i = 0; i < p.requests.size(); ++i) {
    const PickRequest& r = p.requests[i];
    const HostRequest host(r);
    const engine::SampledToken want = engine::GuessFromClusters(
        std::span(p.logits).subspan(r.row * p.candidates(), p.candidates()),
        std::span(p.clusters).subspan(r.row * p.chosen, p.chosen), p.cluster_rows,
        p.cluster_ids.data(), host.request(), p.suppressed, scratch);
    EXPECT_EQ(picked.finite[i], want.finite ? 1 : 0) << i;
    EXPECT_EQ(picked.ids[i], want.id) << i << ": temperature " << r.temperature << " top_k "
                                      << r.top_k << " top_p " << r.top_p << " min_p " << r.min_p;
  }
}

// Of requests that rounding does not decide.
void AddRequests(Problem* p, int per_row, uint32_t seed) {
  std::mt19937 random(seed);
  const int rows = static_cast<int>(p->logits.size()) / p->candidates();
  for (int i = 0; i < per_row * rows; ++i) {
    const int row = i % rows;
    std::vector<Token> tokens;
    for (int c = 0; c < p->candidates(); ++c) {
      const int cluster = p->clusters[row * p->chosen + c / p->cluster_rows];
      const int32_t id = p->cluster_ids[cluster * p->cluster_rows + c % p->cluster_rows];
      const bool suppressed =
          std::find(p->suppressed.begin(), p->suppressed.end(), id) != p->suppressed.end();
      tokens.push_back({suppressed ? -kInf : p->logits[row * p->candidates() + c], id});
    }
    PickRequest request;
    do {
      request = RandomRequest(row, p->vocab, random);
    } while (!IsClear(CutBySorting(tokens, request), request));
    p->requests.push_back(request);
  }
}

struct Case {
  int num_clusters;
  int cluster_rows;
  int chosen;
};

class PickAmongHostTest : public testing::TestWithParam<Case> {};

TEST_P(PickAmongHostTest, IdsAreThoseOfTheHostInEverySchedule) {
  const auto [num_clusters, cluster_rows, chosen] = GetParam();
  Problem p = RandomProblem(4, num_clusters, cluster_rows, chosen, 1);
  for (int id = 1; id < p.vocab; id += 9) p.suppressed.push_back(id);
  AddRequests(&p, 4, 2);
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    ExpectHostsIds(p, PickAmong(p, &stream));
  }
}

INSTANTIATE_TEST_SUITE_P(Heads, PickAmongHostTest,
                         testing::Values(Case{7, 3, 5}, Case{1, 1, 1}, Case{300, 5, 60},
                                         Case{64, 128, 32}),
                         [](const testing::TestParamInfo<Case>& info) {
                           return std::to_string(info.param.chosen) + "of" +
                                  std::to_string(info.param.num_clusters) + "with" +
                                  std::to_string(info.param.cluster_rows);
                         });

TEST(PickAmongTest, NoFiniteCandidateOrOneThatIsNoNumberIsTold) {
  // Given a NaN, +infinity, nothing but -infinity, a NaN that is suppressed, all suppressed.
  Problem p = RandomProblem(6, 8, 4, 2, 3);
  for (const PickRequest& request :
       {PickRequest{}, PickRequest{.temperature = 1.0f, .top_k = 4, .top_p = 0.9f}}) {
    for (int row = 0; row < 6; ++row) {
      p.requests.push_back(request);
      p.requests.back().row = row;
    }
  }
  const auto id_of = [&](int row, int candidate) {
    return p.cluster_ids[p.clusters[row * 2 + candidate / 4] * 4 + candidate % 4];
  };
  p.logits[0 * 8 + 3] = NAN;
  p.logits[1 * 8 + 7] = kInf;
  for (int c = 0; c < 8; ++c) p.logits[2 * 8 + c] = -kInf;
  p.logits[3 * 8 + 1] = NAN;
  p.suppressed.push_back(id_of(3, 1));
  for (int c = 0; c < 8; ++c) p.suppressed.push_back(id_of(4, c));
  KernelStream stream;
  const Picked picked = PickAmong(p, &stream);
  EXPECT_THAT(std::vector<int32_t>(picked.finite.begin(), picked.finite.begin() + 5),
              testing::Each(0));
  ExpectHostsIds(p, picked);
}

TEST(PickAmongTest, TopPSharesOutWhatTopKLeaves) {
  // Given 32 candidates with the same logit, of which top-k leaves the four lowest ids, and then
  // top-p two.
  Problem p = RandomProblem(1, 16, 8, 4, 7);
  p.logits.assign(32, 1.5f);
  std::vector<int32_t> ids;
  for (int c = 0; c < 32; ++c) ids.push_back(p.cluster_ids[p.clusters[c / 8] * 8 + c % 8]);
  std::sort(ids.begin(), ids.end());
  for (int i = 0; i < 24; ++i) {
    p.requests.push_back({.position = i, .row = 0, .temperature = 1.0f, .top_k = 4, .top_p = 0.5f});
  }
  // When many tokens are picked, then they are those two.
  KernelStream stream;
  const Picked picked = PickAmong(p, &stream);
  EXPECT_THAT(std::set<int32_t>(picked.ids.begin(), picked.ids.end()),
              testing::ElementsAre(ids[0], ids[1]));
}

TEST(PickAmongTest, ARequestPicksTheSameAloneAndAmongOthers) {
  Problem p = RandomProblem(3, 32, 16, 8, 4);
  AddRequests(&p, 2, 5);
  KernelStream stream;
  const Picked together = PickAmong(p, &stream);
  for (size_t i = 0; i < p.requests.size(); ++i) {
    Problem alone = p;
    alone.requests = {p.requests[i]};
    EXPECT_EQ(PickAmong(alone, &stream).ids[0], together.ids[i]) << i;
  }
}

TEST(PickAmongTest, MovesTheBytesOfItsFormula) {
  if (!kCountsTraffic) return;
  Problem p = RandomProblem(1, 64, 64, 16, 6);
  p.suppressed = {1};
  p.requests = {{.row = 0, .temperature = 1.0f, .top_k = 5, .top_p = 0.5f}};
  KernelStream stream;
  PickAmong(p, &stream);
  const emu::TrafficBytes traffic = stream.TakeTraffic();
  EXPECT_LE(traffic.read, 16u * 1024 + 40);
  EXPECT_GE(traffic.read, 12u * 1024 + 40);
  EXPECT_EQ(traffic.written, 8u);
}

TEST(PickAmongTest, HeadsWithoutAKernelAreToldAndNoRequestsAreNoWork) {
  for (const int n : {1, 128, 4096}) EXPECT_TRUE(K_WORLD::PickAmongSupports(n));
  for (const int n : {0, -1, 4097}) EXPECT_FALSE(K_WORLD::PickAmongSupports(n));
  KernelStream stream;
  K_WORLD::PickAmong({}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
