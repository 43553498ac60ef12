// Where rows lie in a block, against the byte counts of turboquant.md 2.2.
#include "kvcache/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

TEST(LayoutTest, PublishedModelsHaveTheBlockSizesOfTheSpecification) {
  // Given the sliding group of the 12B model: 40 layers, 8 KV heads of 256, bf16.
  const std::vector<LayerKv> layers(40, LayerKv{.num_kv_heads = 8, .head_dim = 256});
  const absl::StatusOr<GroupLayout> layout = MakeGroupLayout(32, layers);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->block_bytes, size_t{40} * 8 * 32768);
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

}  // namespace
}  // namespace tandem::kvcache
