// How attention is cut: every visible position once, within the workspace.
#include "kernels/cuda/attention_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace tandem::kernels {
namespace {

struct Step {
  std::vector<int32_t> cu_rows = {0};
  std::vector<VisibleInterval> visible;
};

// Segments of up to 9 rows, causal, some with a window, some that see nothing.
Step RandomStep(uint32_t seed) {
  std::mt19937 random(seed);
  Step step;
  for (int s = 0; s < 6; ++s) {
    const int rows = static_cast<int>(random() % 9) + 1, context = random() % 2000;
    const int window = random() % 2 == 0 ? 100000 : 300;
    for (int i = 0; i < rows; ++i) {
      step.visible.push_back({std::max(0, context + i - window), context + i});
    }
    step.cu_rows.push_back(static_cast<int>(step.visible.size()));
  }
  return step;
}

AttentionPlanArgs ArgsOf(const Step& step, AttentionGrain grain, int64_t max_slots) {
  return {.cu_rows = step.cu_rows,
          .visible = step.visible,
          .group = 3,
          .num_kv_heads = 2,
          .chunk_tokens = 64,
          .grain = grain,
          .max_slots = max_slots};
}

TEST(AttentionPlanTest, EveryPackedRowMeetsEveryPositionThatItSeesInTheItemWhereMergeLooks) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const Step step = RandomStep(seed);
    const AttentionGrain grain = {.m_tiles = 1 + static_cast<int>(seed % 2),
                                  .super_chunks = seed / 2 % 2 == 1};
    AttentionPlan plan;
    ASSERT_TRUE(PlanAttention(ArgsOf(step, grain, seed % 3 == 0 ? 300 : 100000), &plan));
    const int unit = grain.super_chunks ? 512 : 64, tile = 16 * grain.m_tiles;
    for (size_t row = 0; row < step.visible.size(); ++row) {
      ASSERT_GE(plan.part_of_row[row], 0);
      const AttentionPart& part = plan.parts[plan.part_of_row[row]];
      for (int head = 0; head < 3; ++head) {
        const int packed = (static_cast<int>(row) - part.row_begin) * 3 + head;
        for (int p = step.visible[row].begin; p < step.visible[row].end; ++p) {
          const AttentionItem& item =
              plan.items[part.item_base + (p / unit - part.unit_begin) * part.num_m_tiles +
                         packed / tile];
          ASSERT_EQ(item.part, plan.part_of_row[row]);
          ASSERT_EQ(item.m_tile, packed / tile);
          ASSERT_TRUE(item.begin <= p && p < item.end) << row << " " << p;
          ASSERT_EQ(item.begin / unit, (item.end - 1) / unit);
        }
      }
    }
  }
}

TEST(AttentionPlanTest, WavesFollowEachOtherAndFitTheWorkspace) {
  Step step;
  for (int s = 0; s < 4; ++s) {
    for (int i = 0; i < 9; ++i) step.visible.push_back({0, 640 + 100 * s + i});
    step.cu_rows.push_back(static_cast<int>(step.visible.size()));
  }
  AttentionPlan plan;
  ASSERT_TRUE(PlanAttention(ArgsOf(step, {}, 100), &plan));
  EXPECT_GE(plan.waves.size(), 2u);
  int item = 0, part = 0;
  for (const AttentionWave& wave : plan.waves) {
    EXPECT_EQ(wave.item_begin, item);
    EXPECT_EQ(wave.part_begin, part);
    EXPECT_LE((wave.item_end - wave.item_begin) * 2, 100);
    item = wave.item_end;
    part = wave.part_end;
  }
  EXPECT_EQ(item, static_cast<int>(plan.items.size()));
  EXPECT_EQ(part, static_cast<int>(plan.parts.size()));
}

TEST(AttentionPlanTest, ARowThatCanNotFitIsTold) {
  const Step step = {.cu_rows = {0, 1}, .visible = {{0, 640}}};
  AttentionPlan plan;
  EXPECT_TRUE(PlanAttention(ArgsOf(step, {}, 20), &plan));
  EXPECT_FALSE(PlanAttention(ArgsOf(step, {}, 19), &plan));
  EXPECT_TRUE(plan.items.empty());
}

TEST(AttentionPlanTest, SmallStepsAreCutFinelyAndLargeOnesCoarsely) {
  const Step step = {.cu_rows = {0, 6}, .visible = std::vector<VisibleInterval>(6, {0, 5120})};
  // 18 packed rows: one item of two m tiles in each of 10 super-chunks and 2 heads.
  EXPECT_EQ(ChooseAttentionGrain(ArgsOf(step, {}, 0), 20).m_tiles, 2);
  EXPECT_TRUE(ChooseAttentionGrain(ArgsOf(step, {}, 0), 20).super_chunks);
  EXPECT_FALSE(ChooseAttentionGrain(ArgsOf(step, {}, 0), 21).super_chunks);
}

TEST(DirectPlanTest, EveryPackedRowHasOneItemWithAllThatItSees) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const Step step = RandomStep(seed);
    const int group = static_cast<int>(seed % 5) + 1;
    AttentionPlan plan;
    PlanDirectAttention(step.cu_rows, step.visible, group, &plan);
    ASSERT_EQ(plan.waves.size(), 1u);
    ASSERT_EQ(plan.waves[0].item_end, static_cast<int>(plan.items.size()));
    std::vector<int> met(step.visible.size() * group);
    for (const AttentionItem& item : plan.items) {
      const AttentionPart& part = plan.parts[item.part];
      for (int packed = 32 * item.m_tile; packed < 32 * (item.m_tile + 1); ++packed) {
        if (packed >= part.num_rows * group) break;
        const int row = part.row_begin + packed / group;
        const VisibleInterval& seen = step.visible[row];
        ASSERT_EQ(plan.part_of_row[row], item.part);
        ASSERT_TRUE(step.cu_rows[part.segment] <= row && row < step.cu_rows[part.segment + 1]);
        ASSERT_TRUE(seen.begin >= seen.end || (item.begin <= seen.begin && seen.end <= item.end));
        ++met[row * group + packed % group];
      }
    }
    EXPECT_EQ(met, std::vector<int>(met.size(), 1));
  }
}

TEST(DirectPlanTest, LongItemsComeFirst) {
  Step step;
  for (const int end : {10, 500, 500, 90}) {
    step.visible.push_back({0, end});
    step.cu_rows.push_back(static_cast<int>(step.visible.size()));
  }
  AttentionPlan plan;
  PlanDirectAttention(step.cu_rows, step.visible, /*group=*/1, &plan);
  std::vector<int> parts;
  for (const AttentionItem& item : plan.items) parts.push_back(item.part);
  EXPECT_EQ(parts, std::vector<int>({1, 2, 3, 0}));
}

TEST(DirectPlanTest, RowsBehindTheLastSegmentAreInNoPart) {
  const std::vector<int32_t> cu_rows = {0, 1, 1};
  const std::vector<VisibleInterval> visible = {{0, 4}, {0, 0}};
  AttentionPlan plan;
  PlanDirectAttention(cu_rows, visible, /*group=*/2, &plan);
  EXPECT_EQ(plan.parts.size(), 1u);
  EXPECT_EQ(plan.part_of_row, std::vector<int32_t>({0, -1}));
  ASSERT_TRUE(PlanAttention({.cu_rows = cu_rows,
                             .visible = visible,
                             .group = 2,
                             .num_kv_heads = 1,
                             .chunk_tokens = 64,
                             .max_slots = 10},
                            &plan));
  EXPECT_EQ(plan.part_of_row, std::vector<int32_t>({0, -1}));
}

}  // namespace
}  // namespace tandem::kernels
