// How the drafter chooses clusters and guesses: ties, broken values, suppressed ids.

#include "engine/draft_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <vector>

namespace tandem::engine {
namespace {

using ::testing::ElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

const SamplingParams kGreedy = {.temperature = 0.0f};
const SampleRequest kRequest = {.params = &kGreedy};

TEST(ChooseClustersTest, TheLargestScoresWinAndTiesGoToTheLowerCluster) {
  // Given three equal scores of which two fit.
  const std::vector<float> scores = {0.0f, 3.0f, -1.0f, 3.0f, 5.0f, 3.0f};
  std::vector<int32_t> chosen(3);
  ChoiceScratch scratch;
  EXPECT_TRUE(ChooseClusters(scores, chosen, scratch));
  EXPECT_THAT(chosen, ElementsAre(1, 3, 4));
}

TEST(ChooseClustersTest, TiesAcrossManyTilesGoToTheLowestClusters) {
  const std::vector<float> scores(2048, 1.0f);
  std::vector<int32_t> chosen(32), lowest(32);
  std::iota(lowest.begin(), lowest.end(), 0);
  ChoiceScratch scratch;
  EXPECT_TRUE(ChooseClusters(scores, chosen, scratch));
  EXPECT_EQ(chosen, lowest);
}

TEST(ChooseClustersTest, BrokenScoresGiveSomeClustersAndSaySo) {
  ChoiceScratch scratch;
  for (const float bad : {kNan, kInf}) {
    std::vector<int32_t> chosen = {-7, -7};
    EXPECT_FALSE(ChooseClusters(std::vector<float>{1.0f, bad, 2.0f}, chosen, scratch));
    EXPECT_THAT(chosen, ElementsAre(0, 1));
  }
  // Too few that are above -inf.
  std::vector<int32_t> chosen(2);
  EXPECT_FALSE(ChooseClusters(std::vector<float>{1.0f, -kInf, -kInf}, chosen, scratch));
}

TEST(GuessTest, TiesGoToTheLowestTokenIdWhateverItsCluster) {
  // Given clusters whose ids are out of order, and equal logits in two of them.
  const std::vector<int32_t> cluster_ids = {8, 3, 5, 1, 0, 6, 2, 7, 4};
  const std::vector<int32_t> clusters = {0, 2};
  const std::vector<float> logits = {2.0f, -1.0f, 4.0f, 4.0f, 1.0f, 4.0f};  // of 8 3 5, 2 7 4
  ChoiceScratch scratch;
  const auto guess = [&](const std::vector<int32_t>& suppressed) {
    return GuessFromClusters(logits, clusters, 3, cluster_ids.data(), kRequest, suppressed,
                             scratch);
  };
  EXPECT_EQ(guess({}).id, 2);
  // And suppressed ids stand back, those outside the clusters too.
  EXPECT_EQ(guess({2, 1}).id, 4);
  EXPECT_EQ(guess({4, 2, 5, 8}).id, 7);
  EXPECT_FALSE(guess({2, 3, 4, 5, 7, 8}).finite);
}

TEST(GuessTest, OfAWholeRowTiesGoToTheLowestTokenId) {
  ChoiceScratch scratch;
  std::vector<float> logits = {1.0f, 6.0f, 6.0f, 2.0f, 6.0f};
  EXPECT_EQ(GuessFromRow(logits, kRequest, {}, scratch).id, 1);
  EXPECT_EQ(GuessFromRow(logits, kRequest, std::vector<int32_t>{1}, scratch).id, 2);
  logits[3] = kNan;
  EXPECT_FALSE(GuessFromRow(logits, kRequest, {}, scratch).finite);
}

}  // namespace
}  // namespace tandem::engine
