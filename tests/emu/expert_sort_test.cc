// Pairs grouped by expert on CUDA under emulation, against a stable sort.
#include "kernels/cuda/expert_sort.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

using K_WORLD::ExpertTile;

struct Sorted {
  std::vector<int32_t> order;
  std::vector<ExpertTile> tiles;
};

Sorted Sort(const std::vector<int32_t>& ids, int experts, int tile_rows, KernelStream* stream) {
  const int pairs = static_cast<int>(ids.size());
  const DeviceVector<int32_t> of_pairs = OnDevice(ids);
  DeviceVector<int32_t> order(pairs, -77);
  DeviceVector<ExpertTile> tiles(K_WORLD::MaxExpertTiles(pairs, experts, tile_rows));
  DeviceVector<int32_t> num_tiles(1, -77);
  K_WORLD::SortByExpert({.ids = of_pairs.data(),
                         .pairs = pairs,
                         .experts = experts,
                         .tile_rows = tile_rows,
                         .order = order.data(),
                         .tiles = tiles.data(),
                         .num_tiles = num_tiles.data()},
                        stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  EXPECT_GE(num_tiles[0], 0);
  EXPECT_LE(num_tiles[0], static_cast<int>(tiles.size()));
  return {{order.begin(), order.end()}, {tiles.begin(), tiles.begin() + num_tiles[0]}};
}

void ExpectSorted(const std::vector<int32_t>& ids, int experts, int tile_rows,
                  const Sorted& sorted) {
  std::vector<int32_t> order(ids.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return ids[a] < ids[b]; });
  EXPECT_EQ(sorted.order, order);
  // Tiles cover all places; each has one expert, and only an expert's last one is not full.
  int place = 0;
  for (const ExpertTile& tile : sorted.tiles) {
    EXPECT_EQ(tile.begin, place);
    EXPECT_LE(tile.end - tile.begin, tile_rows);
    ASSERT_LT(tile.begin, tile.end);
    ASSERT_LE(tile.end, static_cast<int>(ids.size()));
    for (int i = tile.begin; i < tile.end; ++i) EXPECT_EQ(ids[order[i]], tile.expert);
    if (tile.end - tile.begin < tile_rows && tile.end < static_cast<int>(ids.size())) {
      EXPECT_GT(ids[order[tile.end]], tile.expert);
    }
    EXPECT_LT(tile.expert, experts);
    place = tile.end;
  }
  EXPECT_EQ(place, static_cast<int>(ids.size()));
}

TEST(SortByExpertTest, IsStableAndCutsEveryExpertIntoTilesInEverySchedule) {
  std::mt19937 random(5);
  for (const auto& [pairs, experts] : {std::pair(1, 1), std::pair(8, 128), std::pair(257, 8),
                                       std::pair(1030, 12), std::pair(300, 260)}) {
    // Given pairs of experts of which some are rare.
    std::vector<int32_t> ids;
    for (int i = 0; i < pairs; ++i) ids.push_back(random() % (1 + random() % experts));
    // When they are sorted, then in the same way in every order of threads.
    const int tile_rows = pairs % 2 == 0 ? 8 : 32;
    for (const emu::Schedule& schedule : AllSchedules()) {
      KernelStream stream(schedule, /*os_threads=*/2);
      ExpectSorted(ids, experts, tile_rows, Sort(ids, experts, tile_rows, &stream));
    }
  }
}

TEST(SortByExpertTest, AllPairsMayBelongToOneExpert) {
  KernelStream stream;
  for (const int expert : {0, 3, 6}) {
    const std::vector<int32_t> ids(70, expert);
    ExpectSorted(ids, 7, 8, Sort(ids, 7, 8, &stream));
  }
}

TEST(SortByExpertTest, TheMostTilesAreMadeWhenAllExpertsHaveOnePairTooMany) {
  // 5 experts with 8 * 3 + 1 pairs each.
  std::vector<int32_t> ids;
  for (int i = 0; i < 5 * 25; ++i) ids.push_back(i % 5);
  KernelStream stream;
  EXPECT_EQ(Sort(ids, 5, 8, &stream).tiles.size(), 20u);
  EXPECT_EQ(K_WORLD::MaxExpertTiles(5 * 25, 5, 8), 20);
  EXPECT_EQ(K_WORLD::MaxExpertTiles(8, 128, 8), 8);
  EXPECT_EQ(K_WORLD::MaxExpertTiles(1, 128, 32), 1);
}

TEST(SortByExpertTest, MovesTheBytesOfItsFormula) {
  if (!kCountsTraffic) GTEST_SKIP() << "a device does not count its traffic";
  const std::vector<int32_t> ids = {3, 1, 3, 0, 3, 3, 3, 3, 3, 3, 3, 3};
  KernelStream stream;
  const size_t tiles = Sort(ids, 5, 8, &stream).tiles.size();
  EXPECT_EQ(tiles, 4u);
  const emu::TrafficBytes traffic = stream.TakeTraffic();
  EXPECT_EQ(traffic.read, 8 * ids.size() * 5);
  EXPECT_EQ(traffic.written, 4 * ids.size() + 16 * tiles + 4);
}

}  // namespace
}  // namespace tandem::kernels
