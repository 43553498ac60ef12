// Damaged and mismatched checkpoints: every one is refused with file and tensor.

#include "engine/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/kv_layers.h"
#include "engine/load_model.h"
#include "tests/engine/checkpoint_copy.h"
#include "tests/engine/engine_rig.h"

namespace tandem::engine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using tandem::testing::CheckpointCopy;
using tandem::testing::ReadAll;
using tandem::testing::WriteAll;
using ::testing::AllOf;
using ::testing::HasSubstr;

class TargetCopy : public CheckpointCopy {
 public:
  explicit TargetCopy(const std::string& variant) : CheckpointCopy(variant, "target") {}

  absl::StatusOr<Model> Load(const LoadOptions& options = {}) const {
    const kernels::CpuBackendPtr backend = *kernels::MakeCpuBackend({.threads = 1});
    return LoadCheckpoint(dir(), options, kernels::CpuOps(*backend), nullptr);
  }

  std::string Refusal() const {
    const absl::StatusOr<Model> model = Load();
    EXPECT_FALSE(model.ok());
    return std::string(model.status().message());
  }
};

const char kQ0[] = "model.language_model.layers.0.self_attn.q_proj.weight";

TEST(CheckpointTest, EveryGoldenVariantLoads) {
  for (const char* variant : tandem::testing::kVariants) {
    const TargetCopy copy(variant);
    const absl::StatusOr<Model> model = copy.Load();
    EXPECT_TRUE(model.ok()) << variant << ": " << model.status();
  }
}

TEST(CheckpointTest, AWeightThatAFormatCanNotHoldNamesItsTensor) {
  // Given a checkpoint with an infinite weight.
  const TargetCopy copy("12b-like");
  copy.EditTensors([](std::map<std::string, tandem::testing::RawTensor>& tensors) {
    tensors[kQ0].bytes[100] = static_cast<char>(0x80);
    tensors[kQ0].bytes[101] = 0x7f;
  });
  // Then weights of codes refuse it, and bf16 holds it as it is.
  for (const kernels::WeightFormat format :
       {kernels::WeightFormat::kInt8, kernels::WeightFormat::kInt4}) {
    const absl::StatusOr<Model> model = copy.Load({.weights = format});
    EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(model.status().message()),
                AllOf(HasSubstr("layers.0.self_attn.q_proj.weight"), HasSubstr("not finite"),
                      HasSubstr("bf16")));
  }
  EXPECT_TRUE(copy.Load().ok());
}

TEST(CheckpointTest, ProgressEndsAtTheTotal) {
  kernels::CpuBackendPtr backend = *kernels::MakeCpuBackend({.threads = 1});
  size_t done = 0, total = 1;
  ASSERT_TRUE(LoadCheckpoint(tandem::testing::GoldenDir("26b-like") + "/target", {},
                             kernels::CpuOps(*backend),
                             [&](size_t d, size_t t) {
                               EXPECT_GE(d, done);
                               done = d;
                               total = t;
                             })
                  .ok());
  EXPECT_EQ(done, total);
}

TEST(CheckpointTest, ACutOffFileNamesFileAndTensor) {
  const TargetCopy copy("12b-like");
  const std::string bytes = ReadAll(copy.file("model.safetensors"));
  WriteAll(copy.file("model.safetensors"), bytes.substr(0, bytes.size() - 1000));
  EXPECT_THAT(copy.Refusal(), AllOf(HasSubstr("model.safetensors"), HasSubstr("tensor \"model."),
                                    HasSubstr("cut off")));
  WriteAll(copy.file("model.safetensors"), bytes.substr(0, 500));
  EXPECT_THAT(copy.Refusal(), AllOf(HasSubstr("model.safetensors"), HasSubstr("cut off")));
  WriteAll(copy.file("model.safetensors"), bytes.substr(0, 5));
  EXPECT_THAT(copy.Refusal(), HasSubstr("too short"));
  WriteAll(copy.file("model.safetensors"), "");
  EXPECT_THAT(copy.Refusal(), HasSubstr("empty"));
}

TEST(CheckpointTest, AMissingTensorIsNamedWithItsShape) {
  const TargetCopy copy("12b-like");
  copy.EditHeader([](json& header) { header.erase(kQ0); });
  EXPECT_THAT(copy.Refusal(), AllOf(HasSubstr(kQ0), HasSubstr("[1024, 96]"), HasSubstr("missing")));
}

TEST(CheckpointTest, AWrongShapeNamesBothShapes) {
  const TargetCopy copy("12b-like");
  copy.EditHeader([](json& header) { header[kQ0]["shape"] = {96, 1024}; });
  EXPECT_THAT(copy.Refusal(),
              AllOf(HasSubstr(kQ0), HasSubstr("[96, 1024]"), HasSubstr("[1024, 96]")));
}

TEST(CheckpointTest, AWrongDtypeIsNamed) {
  const TargetCopy copy("12b-like");
  copy.EditHeader([](json& header) { header[kQ0]["dtype"] = "F16"; });
  EXPECT_THAT(copy.Refusal(), AllOf(HasSubstr(kQ0), HasSubstr("F16"), HasSubstr("BF16")));
  copy.EditHeader([](json& header) { header[kQ0]["dtype"] = "Q4"; });
  EXPECT_THAT(copy.Refusal(), AllOf(HasSubstr(kQ0), HasSubstr("Q4"), HasSubstr("not known")));
}

TEST(CheckpointTest, OverlappingTensorsAreBothNamed) {
  const TargetCopy copy("12b-like");
  copy.EditHeader([](json& header) {
    auto& offsets = header[kQ0]["data_offsets"];
    const int64_t begin = offsets[0], end = offsets[1];
    const int64_t shift = begin >= 2 ? -2 : 2;
    offsets = {begin + shift, end + shift};
  });
  EXPECT_THAT(copy.Refusal(), AllOf(HasSubstr("overlaps"), HasSubstr("tensor \"model.")));
}

TEST(CheckpointTest, OffsetsThatDoNotFitTheShapeAreRefused) {
  const TargetCopy copy("12b-like");
  copy.EditHeader([](json& header) {
    header[kQ0]["data_offsets"][1] = header[kQ0]["data_offsets"][1].get<int64_t>() - 2;
  });
  EXPECT_THAT(copy.Refusal(), AllOf(HasSubstr(kQ0), HasSubstr("shape and dtype need")));
}

TEST(CheckpointTest, HostileHeaderNumbersAreRefused) {
  const json hostile[] = {
      {{"dtype", "BF16"}, {"shape", {1ull << 62, 8}}, {"data_offsets", {0, 16}}},
      {{"dtype", "BF16"}, {"shape", {-1}}, {"data_offsets", {0, 2}}},
      {{"dtype", "BF16"}, {"shape", {1}}, {"data_offsets", {2, 0}}},
      {{"dtype", "BF16"}, {"shape", {1}}, {"data_offsets", {0, 1ull << 63}}},
      {{"dtype", "BF16"}, {"shape", "x"}, {"data_offsets", {0, 2}}},
      {{"dtype", 7}, {"shape", {1}}, {"data_offsets", {0, 2}}},
      {{"dtype", "BF16"}, {"shape", {1}}},
      json::array(),
  };
  for (const json& entry : hostile) {
    const TargetCopy copy("12b-like");
    copy.EditHeader([&](json& header) { header[kQ0] = entry; });
    EXPECT_THAT(copy.Refusal(), HasSubstr(kQ0)) << entry;
  }
}

TEST(CheckpointTest, AnUnknownTensorUnderTheTextPrefixIsRefused) {
  const TargetCopy copy("12b-like");
  copy.EditHeader([](json& header) {
    header["model.language_model.layers.0.self_attn.sinks"] = header[kQ0];
    header.erase(kQ0);
  });
  EXPECT_THAT(copy.Refusal(), HasSubstr("self_attn.sinks"));
}

TEST(CheckpointTest, ShardProblemsNameIndexAndShard) {
  {
    const TargetCopy copy("26b-like");
    fs::remove(copy.file("model-00002-of-00002.safetensors"));
    EXPECT_THAT(copy.Refusal(), HasSubstr("model-00002-of-00002.safetensors"));
  }
  {
    const TargetCopy copy("26b-like");
    json index = json::parse(ReadAll(copy.file("model.safetensors.index.json")));
    index["weight_map"]["model.language_model.ghost"] = "model-00001-of-00002.safetensors";
    WriteAll(copy.file("model.safetensors.index.json"), index.dump());
    EXPECT_THAT(copy.Refusal(), AllOf(HasSubstr("ghost"), HasSubstr("index.json")));
    index["weight_map"]["model.language_model.ghost"] = "../../etc/passwd";
    WriteAll(copy.file("model.safetensors.index.json"), index.dump());
    EXPECT_THAT(copy.Refusal(), AllOf(HasSubstr("ghost"), HasSubstr("not a file name")));
    WriteAll(copy.file("model.safetensors.index.json"), "{\"weight_map\": 3}");
    EXPECT_THAT(copy.Refusal(), HasSubstr("weight_map"));
  }
}

TEST(CheckpointTest, ANormThatIsNotFiniteIsNamed) {
  const TargetCopy copy("12b-like");
  const char kNorm[] = "model.language_model.layers.1.input_layernorm.weight";
  std::string bytes = ReadAll(copy.file("model.safetensors"));
  uint64_t size = 0;
  std::memcpy(&size, bytes.data(), 8);
  const json header = json::parse(bytes.substr(8, size));
  const size_t at = 8 + size + header[kNorm]["data_offsets"][0].get<size_t>();
  bytes[at] = '\x80';
  bytes[at + 1] = '\x7f';  // +infinity
  WriteAll(copy.file("model.safetensors"), bytes);
  EXPECT_THAT(copy.Refusal(),
              AllOf(HasSubstr("layers.1.input_layernorm.weight"), HasSubstr("not finite")));
}

TEST(CheckpointTest, AHeadSizeWithoutAKernelIsRefusedWhenTheModelIsLoaded) {
  kernels::CpuBackendPtr backend = *kernels::MakeCpuBackend({.threads = 1});
  const ModelConfig config = *ParseModelConfig(
      R"({"model_type": "gemma4_text", "hidden_size": 32, "num_hidden_layers": 2,
          "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32, "vocab_size": 64,
          "head_dim": 128, "layer_types": ["sliding_attention", "full_attention"],
          "hidden_size_per_layer_input": 0})",
      "", "config.json");
  const absl::StatusOr<Model> model = LoadDummy(config, 1, kernels::CpuOps(*backend), nullptr);
  ASSERT_TRUE(model.ok()) << model.status();
  std::array<kvcache::BlockStore*, kNumKvGroups> pointers = {};
  std::vector<kvcache::BlockStore> stores;
  stores.reserve(kNumKvGroups);
  for (const KvGroup group : {kSliding, kFull}) {
    auto layout = kvcache::MakeGroupLayout(
        16, KvLayers(config, group, kernels::KvFormat::kBf16, kernels::KvFormat::kBf16));
    ASSERT_TRUE(layout.ok()) << layout.status();
    stores.push_back(*kvcache::BlockStore::Create(*layout, 4));
    pointers[group] = &stores.back();
  }
  const auto runner = Runner::Create(*model, kernels::CpuOps(*backend), pointers, {});
  EXPECT_THAT(std::string(runner.status().message()),
              AllOf(HasSubstr("layer 0"), HasSubstr("head size 128"), HasSubstr("256 and 512")));
}

TEST(CheckpointTest, DummyWeightsDependOnTheSeedAlone) {
  kernels::CpuBackendPtr one = *kernels::MakeCpuBackend({.threads = 1});
  kernels::CpuBackendPtr two = *kernels::MakeCpuBackend({.threads = 2});
  const ModelConfig config = *ReadModelConfig(tandem::testing::GoldenDir("e2b-like") + "/target");
  const Model a = *LoadDummy(config, 5, kernels::CpuOps(*one), nullptr);
  const Model b = *LoadDummy(config, 5, kernels::CpuOps(*two), nullptr);
  const Model c = *LoadDummy(config, 6, kernels::CpuOps(*two), nullptr);
  const size_t bytes = WeightBytes(config);
  EXPECT_EQ(std::memcmp(a.memory.data(), b.memory.data(), bytes), 0);
  EXPECT_NE(std::memcmp(a.memory.data(), c.memory.data(), bytes), 0);
  EXPECT_EQ(std::memcmp(a.weights.ple_table, b.weights.ple_table, PleTableBytes(config)), 0);
}

}  // namespace
}  // namespace tandem::engine
