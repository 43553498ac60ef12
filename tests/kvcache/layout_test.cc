// Where rows lie in a block, against the byte counts of turboquant 2.2 and 6.5.
#include "kvcache/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <iterator>
#include <string>
#include <vector>

#include "kvcache/block_store.h"
#include "kvcache/kv_formats.h"

namespace tandem::kvcache {
namespace {

using kernels::KvFormat;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(LayoutTest, AHeadBlockHoldsItsKRowsThenItsVRows) {
  // Given 32 tokens of 256 values in two bytes each (the f16/f16 row of the table).
  const LayerKv layer = {.num_kv_heads = 1, .head_dim = 256};
  // Then K and V take 16 KiB each.
  EXPECT_EQ(HeadBlockVOffset(layer, 32), 16384u);
  EXPECT_EQ(HeadBlockScaleOffset(layer, 32), 32768u);
  EXPECT_EQ(HeadBlockBytes(layer, 32), 32768u);
}

TEST(LayoutTest, KAndVHaveFormatsOfTheirOwn) {
  const LayerKv layer = {
      .num_kv_heads = 1, .head_dim = 512, .k = KvFormat::kF32, .v = KvFormat::kBf16};
  EXPECT_EQ(HeadBlockVOffset(layer, 32), 32u * 512 * 4);
  EXPECT_EQ(HeadBlockBytes(layer, 32), 32u * 512 * (4 + 2));
}

TEST(LayoutTest, LayersFollowEachOtherInWhole256ByteBlocks) {
  // Given two layers of different shape.
  const absl::StatusOr<GroupLayout> layout = MakeGroupLayout(
      16, {{.num_kv_heads = 3, .head_dim = 16}, {.num_kv_heads = 1, .head_dim = 48}});
  ASSERT_TRUE(layout.ok()) << layout.status();
  // Then 3 * 1024 bytes of the first come before the 3072 of the second.
  EXPECT_THAT(layout->layer_offset, ElementsAre(0u, 3072u));
  EXPECT_EQ(layout->block_bytes, 6144u);
  EXPECT_EQ(layout->block_bytes % 256, 0u);
}

TEST(LayoutTest, HeadBlocksHaveTheSizesOfTheSpecification) {
  const struct {
    KvFormat k, v;
    size_t bytes_256, bytes_512;
  } cases[] = {{KvFormat::kF16, KvFormat::kF16, 32768, 65536},
               {KvFormat::kQ8, KvFormat::kQ8, 16512, 32896},
               {KvFormat::kQ8, KvFormat::kTurbo4, 12416, 24704},
               {KvFormat::kTurbo4, KvFormat::kTurbo4, 8320, 16512},
               {KvFormat::kTurbo4, KvFormat::kTurbo3, 7296, 14464},
               {KvFormat::kTurbo3, KvFormat::kTurbo3, 6272, 12416},
               {KvFormat::kTurbo3, KvFormat::kTurbo2, 5248, 10368},
               {KvFormat::kTurbo2, KvFormat::kTurbo2, 4224, 8320}};
  for (const auto& c : cases) {
    EXPECT_EQ(HeadBlockBytes({1, 256, c.k, c.v}, 32), c.bytes_256);
    EXPECT_EQ(HeadBlockBytes({1, 512, c.k, c.v}, 32), c.bytes_512);
  }
}

TEST(LayoutTest, ScalePlanesComeLastAndOnlyForFormatsWithScales) {
  // Given 32 tokens of 256: two planes of 64 bytes, or one and as much padding.
  const LayerKv two = {1, 256, KvFormat::kTurbo3, KvFormat::kQ8};
  EXPECT_EQ(HeadBlockVOffset(two, 32), 32u * 96);
  EXPECT_EQ(HeadBlockScaleOffset(two, 32), 32u * (96 + 256));
  EXPECT_EQ(HeadBlockScaleBytes(two, 32), 128u);
  for (const LayerKv& one : {LayerKv{1, 256, KvFormat::kBf16, KvFormat::kQ8},
                             LayerKv{1, 256, KvFormat::kQ8, KvFormat::kBf16}}) {
    EXPECT_EQ(HeadBlockScaleBytes(one, 32), 64u);
    EXPECT_EQ(HeadBlockBytes(one, 32), 32u * (256 + 512) + 128);
  }
  EXPECT_EQ(HeadBlockScaleBytes({1, 256, KvFormat::kF32, KvFormat::kF16}, 32), 0u);
}

TEST(LayoutTest, EveryRegionStartsOnSixteenBytes) {
  for (int k = 0; k < kernels::kNumKvFormats; ++k) {
    for (int v = 0; v < kernels::kNumKvFormats; ++v) {
      for (const int head_dim : {64, 128, 256, 512}) {
        for (const int block_tokens : {16, 32, 64}) {
          const LayerKv layer = {1, head_dim, static_cast<KvFormat>(k), static_cast<KvFormat>(v)};
          EXPECT_EQ(HeadBlockVOffset(layer, block_tokens) % 16, 0u);
          EXPECT_EQ(HeadBlockScaleOffset(layer, block_tokens) % 16, 0u);
          EXPECT_EQ(HeadBlockBytes(layer, block_tokens) % 128, 0u);
        }
      }
    }
  }
}

// One of the published models: its layers with KV of their own, in model order.
struct Model {
  const char* name;
  int layers;
  int period;  // every so many-th layer is a full one
  int sliding_heads;
  int full_heads;
};
constexpr Model kModels[] = {{"E2B", 15, 5, 1, 1},
                             {"E4B", 24, 6, 2, 2},
                             {"12B", 48, 6, 8, 1},
                             {"26B-A4B", 30, 6, 8, 2},
                             {"31B", 60, 6, 16, 4}};

// [0] sliding, [1] full.
std::array<std::vector<LayerKv>, 2> LayersOf(const Model& model, const KvFormats& formats) {
  std::vector<int> groups;
  for (int i = 0; i < model.layers; ++i) groups.push_back((i + 1) % model.period == 0 ? 1 : 0);
  const std::vector<KvPair> pairs = LayerFormats(formats, groups).value();
  std::array<std::vector<LayerKv>, 2> layers;
  for (int i = 0; i < model.layers; ++i) {
    const int heads = groups[i] == 0 ? model.sliding_heads : model.full_heads;
    layers[groups[i]].push_back({heads, groups[i] == 0 ? 256 : 512, pairs[i].k, pairs[i].v});
  }
  return layers;
}

KvFormats Uniform(const char* pair) {
  return {{ParseKvPair(pair).value(), ParseKvPair(pair).value()}};
}

TEST(TokenBytesTest, AreThoseOfTheSpecificationForThePublishedModels) {
  const char* pairs[] = {"f16", "q8", "q8/turbo4", "turbo4", "turbo3", "turbo2"};
  // By model: full, then sliding layers; [pairs], then the preset `compact`.
  constexpr size_t kBytes[][2][7] = {
      {{6144, 3084, 2316, 1548, 1164, 780, 2060}, {12288, 6192, 4656, 3120, 2352, 1584, 3888}},
      {{16384, 8224, 6176, 4128, 3104, 2080, 5152},
       {40960, 20640, 15520, 10400, 7840, 5280, 11936}},
      {{16384, 8224, 6176, 4128, 3104, 2080, 4640},
       {327680, 165120, 124160, 83200, 62720, 42240, 89344}},
      {{20480, 10280, 7720, 5160, 3880, 2600, 6184},
       {204800, 103200, 77600, 52000, 39200, 26400, 58144}},
      {{81920, 41120, 30880, 20640, 15520, 10400, 22688},
       {819200, 412800, 310400, 208000, 156800, 105600, 220288}}};
  for (size_t m = 0; m < std::size(kModels); ++m) {
    for (int i = 0; i < 7; ++i) {
      const KvFormats formats = i < 6 ? Uniform(pairs[i]) : *PresetFormats("compact");
      const auto layers = LayersOf(kModels[m], formats);
      EXPECT_EQ(TokenBytes(layers[1]), kBytes[m][0][i]) << kModels[m].name << ' ' << i;
      EXPECT_EQ(TokenBytes(layers[0]), kBytes[m][1][i]) << kModels[m].name << ' ' << i;
    }
  }
}

TEST(TokenBytesTest, AllocatedPoolsKeepTheShareOfBf16ThatTheFormatPromises) {
  const struct {
    const char* pair;
    double share;
  } cases[] = {{"q8", 0.51}, {"turbo4", 0.26}, {"turbo3", 0.20}, {"turbo2", 0.14}};
  constexpr int32_t kBlocks = 7;
  for (const Model& model : kModels) {
    for (const int block_tokens : {16, 32, 64}) {
      for (const int group : {0, 1}) {
        const auto allocate = [&](const char* pair) {
          const auto layout = MakeGroupLayout(block_tokens, LayersOf(model, Uniform(pair))[group]);
          const absl::StatusOr<BlockStore> store = BlockStore::Create(layout.value(), kBlocks);
          // Padding included, so what the formats promise holds for memory as it is taken.
          EXPECT_GE(store->bytes(), kBlocks * block_tokens * TokenBytes(layout->layers));
          return static_cast<double>(store->bytes());
        };
        const double bf16 = allocate("bf16");
        for (const auto& c : cases) {
          EXPECT_LE(allocate(c.pair) / bf16, c.share)
              << model.name << ", group " << group << ", " << c.pair << ", " << block_tokens;
        }
      }
    }
  }
}

TEST(LayoutTest, PublishedModelsHaveTheBlockSizesOfTheSpecification) {
  // Given q8 and blocks of 32 tokens: bytes by model, sliding and full.
  constexpr size_t kBytes[][2] = {{size_t{12} * 16512, 3 * 32896},
                                  {size_t{20} * 2 * 16512, 4 * 2 * 32896},
                                  {size_t{40} * 8 * 16512, 8 * 32896},
                                  {size_t{25} * 8 * 16512, 5 * 2 * 32896},
                                  {size_t{50} * 16 * 16512, 10 * 4 * 32896}};
  for (size_t m = 0; m < std::size(kModels); ++m) {
    for (const int group : {0, 1}) {
      const auto layout = MakeGroupLayout(32, LayersOf(kModels[m], Uniform("q8"))[group]);
      ASSERT_TRUE(layout.ok()) << layout.status();
      EXPECT_EQ(layout->block_bytes, (kBytes[m][group] + 255) / 256 * 256) << kModels[m].name;
    }
  }
}

TEST(LayoutTest, RefusesShapesWithTheValueAndTheBound) {
  const std::vector<LayerKv> good = {{.num_kv_heads = 1, .head_dim = 64}};
  EXPECT_THAT(MakeGroupLayout(24, good).status().message(), HasSubstr("24 tokens"));
  EXPECT_THAT(MakeGroupLayout(0, good).status().message(), HasSubstr("use 16, 32 or 64"));
  EXPECT_EQ(MakeGroupLayout(32, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MakeGroupLayout(32, {{.num_kv_heads = 0, .head_dim = 64}}).status().message(),
              HasSubstr("0 KV heads"));
  EXPECT_THAT(MakeGroupLayout(32, {{.num_kv_heads = 1, .head_dim = 40}}).status().message(),
              HasSubstr("head size of 40"));
  EXPECT_FALSE(MakeGroupLayout(32, {{.num_kv_heads = 1, .head_dim = 2048}}).ok());
  EXPECT_FALSE(MakeGroupLayout(32, {{.num_kv_heads = 1 << 30, .head_dim = 64}}).ok());
}

TEST(LayoutTest, RefusesFormatsThatTheHeadSizeCannotRotate) {
  for (const KvFormat format :
       {KvFormat::kQ8, KvFormat::kTurbo4, KvFormat::kTurbo3, KvFormat::kTurbo2}) {
    for (const int head_dim : {16, 32, 48, 80, 96, 192, 320, 384, 768, 1024}) {
      for (const LayerKv& bad : {LayerKv{1, head_dim, format, KvFormat::kBf16},
                                 LayerKv{1, head_dim, KvFormat::kBf16, format}}) {
        // Given a good layer before the bad one.
        const absl::Status status =
            MakeGroupLayout(32, {{1, 64, format, format}, bad}, "sliding group").status();
        EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
        EXPECT_THAT(status.message(), HasSubstr("layer 1 of the sliding group"));
        EXPECT_THAT(status.message(), HasSubstr("head size of " + std::to_string(head_dim) + ";"));
        EXPECT_THAT(status.message(), HasSubstr(std::string(KvFormatName(format)) + " needs"));
      }
    }
    for (const int head_dim : {64, 128, 256, 512}) {
      EXPECT_TRUE(MakeGroupLayout(32, {{1, head_dim, format, format}}).ok());
    }
  }
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBf16, KvFormat::kF16}) {
    EXPECT_TRUE(MakeGroupLayout(32, {{1, 48, format, format}}).ok());
  }
}

}  // namespace
}  // namespace tandem::kvcache
