// The order of service of those who wait.
#include "scheduler/waiting_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <string>
#include <vector>

namespace tandem::scheduler {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int64_t kTurnUs = 10;

struct Line {
  explicit Line(int64_t turn_us = kTurnUs) : waiting(turn_us) {}

  Sequence& Add(const std::string& tenant, int64_t key_us) {
    RequestState& state = requests.emplace_back();
    state.id = requests.size();
    state.tenant = waiting.Open(tenant);
    state.choices.resize(1);
    state.choices[0].request = &state;
    state.choices[0].rank = {.key_us = key_us, .request = state.id};
    waiting.Join(state.choices[0]);
    return state.choices[0];
  }
  // Ids of requests, from 1 in order of Add.
  std::vector<RequestId> First(size_t count = 100) const {
    std::vector<RequestId> ids;
    for (const Sequence* sequence : waiting.First(count)) ids.push_back(sequence->request->id);
    return ids;
  }

  WaitingLine waiting;
  std::deque<RequestState> requests;
};

TEST(WaitingLineTest, OneTenantIsServedByRank) {
  Line line;
  line.Add("a", 30);
  line.Add("a", 10);
  line.Add("a", 20);
  EXPECT_THAT(line.First(), ElementsAre(2, 3, 1));
  EXPECT_THAT(line.First(2), ElementsAre(2, 3));
  EXPECT_THAT(line.First(0), IsEmpty());
}

TEST(WaitingLineTest, TenantsTakeTurns) {
  // Given a backlog of one tenant and two later requests of another.
  Line line;
  for (int64_t i = 0; i < 4; ++i) line.Add("a", i);  // keys 0, 11, 22, 33
  line.Add("b", 5);                                  // 5
  line.Add("b", 6);                                  // 16
  EXPECT_THAT(line.First(), ElementsAre(1, 5, 2, 6, 3, 4));
}

TEST(WaitingLineTest, SeatsAreTurnsThatWereTaken) {
  Line line;
  Sequence& a = line.Add("a", 0);
  line.Add("b", 15);
  EXPECT_THAT(line.First(), ElementsAre(1, 2));
  a.request->tenant->seats = 2;
  EXPECT_THAT(line.First(), ElementsAre(2, 1));
}

TEST(WaitingLineTest, AgeOutweighsTurnsInTheEnd) {
  Line line;
  line.Add("a", 0).request->tenant->seats = 3;  // key 30
  line.Add("b", 29);
  EXPECT_THAT(line.First(), ElementsAre(2, 1));
  line.Add("c", 31);
  EXPECT_THAT(line.First(), ElementsAre(2, 1, 3));
}

TEST(WaitingLineTest, WithoutTurnsTenantsAreNotToldApart) {
  Line line(/*turn_us=*/0);
  for (int64_t i = 0; i < 3; ++i) line.Add("a", i);
  line.Add("b", 1);
  EXPECT_THAT(line.First(), ElementsAre(1, 2, 4, 3));
  EXPECT_EQ(line.requests[0].tenant, line.requests[3].tenant);
}

TEST(WaitingLineTest, WhoLeavesIsGoneAndAnEmptyTenantIsForgotten) {
  Line line;
  Sequence& first = line.Add("a", 0);
  Sequence& second = line.Add("a", 1);
  line.waiting.Leave(first);
  EXPECT_THAT(line.First(), ElementsAre(2));
  line.waiting.Leave(second);
  EXPECT_THAT(line.First(), IsEmpty());
  first.request->tenant->seats = 1;
  line.waiting.Close(first.request->tenant);
  EXPECT_EQ(line.waiting.Open("a")->seats, 1);  // still open for the second
  line.waiting.Close(second.request->tenant);
  line.waiting.Close(second.request->tenant);
  EXPECT_EQ(line.waiting.Open("a")->seats, 0);
}

}  // namespace
}  // namespace tandem::scheduler
