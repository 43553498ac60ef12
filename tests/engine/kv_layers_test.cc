// Formats by layer, what they do to logits, and the trial of the encoder.

#include "engine/kv_layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "engine/kv_self_test.h"
#include "engine/logit_noise.h"
#include "tests/engine/engine_rig.h"

namespace tandem::engine {
namespace {

using kernels::KvFormat;
using kvcache::KvPair;
using ::testing::AllOf;
using ::testing::HasSubstr;

ModelConfig Shape(const std::string& name) {
  const absl::StatusOr<ModelConfig> config = PublishedShape(name);
  EXPECT_TRUE(config.ok()) << config.status();
  return *config;
}

TEST(KvLayersTest, ProtectionCountsLayersWithKvOfTheirOwnOverBothGroups) {
  // Given E2B, whose 15 owners are layers 0 to 14, layers 13 and 14 the donors of all the others.
  const ModelConfig e2b = Shape("e2b");
  kvcache::KvFormats formats;
  formats.groups = {KvPair{KvFormat::kTurbo4, KvFormat::kTurbo3},
                    KvPair{KvFormat::kQ8, KvFormat::kTurbo2}};
  formats.protect_first = 1;
  formats.protect_last = 2;
  // When every layer gets its formats.
  const auto pairs = KvPairs(e2b, formats);
  ASSERT_TRUE(pairs.ok()) << pairs.status();
  // Then layers 0, 13 and 14 are protected, and so is what those above 14 read.
  const KvPair safe = {KvFormat::kQ8, KvFormat::kQ8};
  for (int i = 0; i < e2b.num_layers(); ++i) {
    const KvPair expected = i == 0 || i >= 13 ? safe : formats.groups[e2b.layers[i].group()];
    EXPECT_EQ((*pairs)[i], expected) << i;
  }
  // And each group stores what its owners have.
  const auto sliding = KvLayers(e2b, kSliding, formats);
  const auto full = KvLayers(e2b, kFull, formats);
  ASSERT_TRUE(sliding.ok() && full.ok());
  ASSERT_EQ(sliding->size(), 12u);
  ASSERT_EQ(full->size(), 3u);
  EXPECT_EQ((*sliding)[0].k, KvFormat::kQ8);
  EXPECT_EQ((*sliding)[1].k, KvFormat::kTurbo4);
  EXPECT_EQ((*sliding)[11].v, KvFormat::kQ8);
  EXPECT_EQ((*full)[1].v, KvFormat::kTurbo2);
  EXPECT_EQ((*full)[2].v, KvFormat::kQ8);
  EXPECT_EQ((*full)[2].head_dim, 512);
}

TEST(KvLayersTest, ProtectionThatLeavesNoLayerIsRefused) {
  kvcache::KvFormats formats = *kvcache::PresetFormats("compact");
  formats.protect_last = 13;
  EXPECT_EQ(KvLayers(Shape("e2b"), kFull, formats).status().code(),
            absl::StatusCode::kInvalidArgument);
  formats.protect_last = 12;
  EXPECT_TRUE(KvLayers(Shape("e2b"), kFull, formats).ok());
}

TEST(KvLayersTest, AFormatWithoutAKernelIsNamedWithTheFirstLayerThatNeedsIt) {
  // Given a backend that can do anything but turbo3 values at a head size of 512.
  kernels::Ops ops;
  ops.name = "cpu test";
  ops.supports = [](const kernels::AttentionShape& shape) {
    return shape.head_dim != 512 || shape.v_format != KvFormat::kTurbo3;
  };
  kvcache::KvFormats formats = *kvcache::PresetFormats("max");
  // Then layer 4, the first full one, is refused, and not the values of the sliding ones.
  const absl::Status refused = CheckKvKernels(Shape("e2b"), formats, ops);
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(refused.message(),
              AllOf(HasSubstr("layer 4 has head size 512"), HasSubstr("keys in turbo4"),
                    HasSubstr("values in turbo3"), HasSubstr("cpu test"), HasSubstr("--kv-type")));
  formats.groups[kFull].v = KvFormat::kTurbo4;
  EXPECT_TRUE(CheckKvKernels(Shape("e2b"), formats, ops).ok());
}

TEST(LogitNoiseTest, LogitsHaveTheSizeOfTheNormsWeightsAndSharingLayersMeetTheirOwnersKeys) {
  // Given a checkpoint with layers that share KV, loaded, and its norms read alone.
  const std::string directory = testing::GoldenDir("e2b-like") + "/target";
  testing::EngineRig rig(directory, {});
  const ModelConfig& config = rig.model.config;
  const auto checkpoint = OpenCheckpoint(directory);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto norms = ReadQkNorms(*checkpoint, config, directory);
  ASSERT_TRUE(norms.ok()) << norms.status();
  // Then both give the same sizes,
  const std::vector<double> sizes = LogitSizes(config, rig.model.weights);
  EXPECT_EQ(LogitSizes(config, norms->weights), sizes);
  // which are |w_q| |w_k| / sqrt(d).
  ASSERT_LT(config.first_shared, config.num_layers());
  const int last = config.num_layers() - 1;
  const LayerDesc& layer = config.layers[last];
  double q = 0, k = 0;
  for (int i = 0; i < layer.head_dim; ++i) {
    q += std::pow(rig.model.weights.layers[last].q_norm[i], 2);
    k += std::pow(rig.model.weights.layers[layer.kv_owner].k_norm[i], 2);
  }
  EXPECT_NEAR(sizes[last], std::sqrt(q * k / layer.head_dim), 1e-6 * sizes[last]);
}

TEST(LogitNoiseTest, FormatsAreRankedAsTheirSquaredErrors) {
  // turboquant 4.1: 0.7, 9.7, 18.6 and 34 % of a logit.
  EXPECT_NEAR(KeyNoise(KvFormat::kQ8), 0.007, 0.0005);
  EXPECT_NEAR(KeyNoise(KvFormat::kTurbo4), 0.097, 0.001);
  EXPECT_NEAR(KeyNoise(KvFormat::kTurbo3), 0.186, 0.001);
  EXPECT_NEAR(KeyNoise(KvFormat::kTurbo2), 0.343, 0.001);
  EXPECT_EQ(KeyNoise(KvFormat::kBf16), 0.0);
}

std::vector<kvcache::LayerKv> EveryFormat() {
  std::vector<kvcache::LayerKv> layers;
  for (const int dim : {256, 512}) {
    for (const KvFormat format :
         {KvFormat::kQ8, KvFormat::kTurbo4, KvFormat::kTurbo3, KvFormat::kTurbo2}) {
      layers.push_back({1, dim, format, format});
    }
  }
  return layers;
}

TEST(KvSelfTest, EveryLevelStoresTheGoldenVectors) {
  for (const kernels::CpuIsa isa : testing::PresentIsas()) {
    const auto backend = kernels::MakeCpuBackend({.threads = 1, .isa = isa});
    ASSERT_TRUE(backend.ok()) << backend.status();
    const absl::Status tried = TryKvEncoder(EveryFormat(), kernels::CpuOps(**backend));
    EXPECT_TRUE(tried.ok()) << tried;
  }
}

TEST(KvSelfTest, ABackendThatStoresOneBitOtherwiseIsRefused) {
  // Given a backend that flips the lowest bit of the first K code.
  const auto backend = kernels::MakeCpuBackend({.threads = 1});
  ASSERT_TRUE(backend.ok()) << backend.status();
  static kernels::Ops good;
  good = kernels::CpuOps(**backend);
  kernels::Ops bad = good;
  bad.qkv_post = [](void* state, const kernels::QkvPostArgs& args) {
    good.qkv_post(state, args);
    const size_t row = kernels::KvRowBytes(args.kv.k_format, args.head_dim);
    args.kv.base[*args.cells * row] ^= std::byte{1};
  };
  // Then it is not trusted, but for formats that have no codes.
  const std::vector<kvcache::LayerKv> turbo4 = {{1, 512, KvFormat::kBf16, KvFormat::kTurbo4}};
  const absl::Status refused = TryKvEncoder(turbo4, bad);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(refused.message(), AllOf(HasSubstr("turbo4"), HasSubstr("head size 512"),
                                       HasSubstr("0c7ebbb9"), HasSubstr("--cpu-isa ref")));
  const std::vector<kvcache::LayerKv> plain = {{1, 512, KvFormat::kBf16, KvFormat::kF16}};
  EXPECT_TRUE(TryKvEncoder(plain, bad).ok());
}

}  // namespace
}  // namespace tandem::engine
