// Assistants from files: what lands where, and damaged or foreign ones, each refused by name (T01
// of mtp.md 5.3, the parts that need tensors).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>

#include "engine/load_assistant.h"
#include "tests/engine/checkpoint_copy.h"
#include "tests/engine/engine_rig.h"

namespace tandem::engine {
namespace {

using nlohmann::json;
using tandem::testing::CheckpointCopy;
using tandem::testing::GoldenDir;
using tandem::testing::GoldenTarget;
using tandem::testing::RawTensor;
using tandem::testing::ReadAll;
using tandem::testing::WriteAll;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using RawTensors = std::map<std::string, RawTensor>;

const char kEmbedding[] = "model.embed_tokens.weight";
const char kOrdering[] = "masked_embedding.token_ordering";
const char kScalar[] = "model.layers.2.layer_scalar";

// A golden assistant that a test may damage, and the target it belongs to.
class AssistantCopy : public CheckpointCopy {
 public:
  explicit AssistantCopy(const std::string& variant)
      : CheckpointCopy(variant, "assistant"), target(GoldenTarget(variant)) {}

  absl::StatusOr<AssistantModel> Load() const {
    const kernels::CpuBackendPtr backend = *kernels::MakeCpuBackend({.threads = 1});
    return LoadAssistant(dir(), target, kernels::CpuOps(*backend), nullptr);
  }

  // Why it is refused, which is the same with and without loading.
  absl::Status Refused() const {
    const absl::Status loaded = Load().status();
    EXPECT_FALSE(loaded.ok());
    EXPECT_EQ(CheckAssistant(dir(), target), loaded);
    return loaded;
  }
  std::string Refusal() const {
    const absl::Status status = Refused();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  }

  ModelConfig target;
};

uint16_t Element(const RawTensor& matrix, int64_t row, int64_t column) {
  uint16_t bits = 0;
  std::memcpy(&bits, matrix.bytes.data() + (row * matrix.shape[1] + column) * 2, 2);
  return bits;
}

// Element (n, k) of a packed matrix (kernels/types.h).
uint16_t Packed(const kernels::Bf16* data, int in, int n, int k) {
  return data[(static_cast<size_t>(n / 16) * ((in + 1) / 2) + k / 2) * 32 + n % 16 * 2 + k % 2]
      .bits;
}

void ExpectMatrix(const kernels::WeightView& view, const RawTensor& tensor,
                  const std::string& name) {
  ASSERT_EQ(view.out, tensor.shape[0]) << name;
  ASSERT_EQ(view.in, tensor.shape[1]) << name;
  for (int n = 0; n < view.out; ++n) {
    for (int k = 0; k < view.in; ++k) {
      ASSERT_EQ(Packed(view.data, view.in, n, k), Element(tensor, n, k))
          << name << " " << n << " " << k;
    }
  }
}

void ExpectVector(const float* values, const RawTensor& tensor, const std::string& name) {
  for (int64_t i = 0; i < tensor.shape[0]; ++i) {
    kernels::Bf16 stored;
    std::memcpy(&stored, tensor.bytes.data() + 2 * i, 2);
    ASSERT_EQ(values[i], ToFloat(stored)) << name << " " << i;
  }
}

std::vector<int64_t> Ordering(const RawTensor& tensor) {
  std::vector<int64_t> ids(tensor.shape[0]);
  std::memcpy(ids.data(), tensor.bytes.data(), tensor.bytes.size());
  return ids;
}

template <typename Int>
RawTensor OrderingTensor(const std::vector<Int>& ids) {
  return {sizeof(Int) == 8 ? "I64" : "I32",
          {static_cast<int64_t>(ids.size())},
          std::string(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(Int))};
}

// ---- what lands where ----

TEST(AssistantLoadTest, EveryGoldenAssistantLoadsForItsTarget) {
  for (const char* variant : tandem::testing::kVariants) {
    const AssistantCopy copy(variant);
    const absl::StatusOr<AssistantModel> model = copy.Load();
    ASSERT_TRUE(model.ok()) << variant << ": " << model.status();
    const absl::Status check = CheckAssistant(copy.dir(), copy.target);
    EXPECT_TRUE(check.ok()) << variant << ": " << check;
    EXPECT_EQ(model->config.layers[0].kv_owner, 4) << variant;  // fitted
    EXPECT_EQ(model->checkpoint_tensors, copy.Tensors().size());
    if (variant == std::string("e4b-like")) {
      EXPECT_THAT(model->warnings, ElementsAre(AllOf(HasSubstr("lm_head.weight is ignored"),
                                                     HasSubstr(kEmbedding))));
    } else {
      EXPECT_THAT(model->warnings, IsEmpty());
    }
  }
}

TEST(AssistantLoadTest, EveryTensorLandsInItsPlace) {
  for (const char* variant : {"e2b-like", "31b-like"}) {
    const AssistantCopy copy(variant);
    const absl::StatusOr<AssistantModel> model = copy.Load();
    ASSERT_TRUE(model.ok()) << model.status();
    const RawTensors tensors = copy.Tensors();
    const AssistantWeights& weights = model->weights;
    ExpectMatrix(weights.pre, tensors.at("pre_projection.weight"), "pre");
    ExpectMatrix(weights.post, tensors.at("post_projection.weight"), "post");
    ExpectVector(weights.final_norm, tensors.at("model.norm.weight"), "norm");
    for (int i = 0; i < 4; ++i) {
      const LayerWeights& layer = weights.layers[i];
      const auto at = [&](const std::string& name) {
        return tensors.at("model.layers." + std::to_string(i) + "." + name);
      };
      ExpectMatrix(layer.qkv, at("self_attn.q_proj.weight"), "q");
      ExpectMatrix(layer.o, at("self_attn.o_proj.weight"), "o");
      ExpectMatrix(layer.down, at("mlp.down_proj.weight"), "down");
      ExpectVector(layer.input_norm, at("input_layernorm.weight"), "input_norm");
      ExpectVector(layer.q_norm, at("self_attn.q_norm.weight"), "q_norm");
      ExpectVector(layer.post_attn_norm, at("post_attention_layernorm.weight"), "post_attn_norm");
      ExpectVector(layer.pre_ffn_norm, at("pre_feedforward_layernorm.weight"), "pre_ffn_norm");
      ExpectVector(layer.post_ffn_norm, at("post_feedforward_layernorm.weight"), "post_ffn_norm");
      ExpectVector(layer.layer_scalar, at("layer_scalar"), "layer_scalar");
      const RawTensor gate = at("mlp.gate_proj.weight"), up = at("mlp.up_proj.weight");
      const int width = static_cast<int>(gate.shape[0]);
      ASSERT_EQ(layer.gate_up.out, 2 * width);
      for (int n = 0; n < width; ++n) {
        for (int k = 0; k < layer.gate_up.in; ++k) {
          const int row = n / 16 * 32 + n % 16;
          ASSERT_EQ(Packed(layer.gate_up.data, layer.gate_up.in, row, k), Element(gate, n, k));
          ASSERT_EQ(Packed(layer.gate_up.data, layer.gate_up.in, row + 16, k), Element(up, n, k));
        }
      }
    }
  }
}

TEST(AssistantLoadTest, ADenseHeadKeepsItsRowsByTokenId) {
  const AssistantCopy copy("12b-like");  // 1000 tokens: no multiple of a tile
  const absl::StatusOr<AssistantModel> model = copy.Load();
  ASSERT_TRUE(model.ok()) << model.status();
  ExpectMatrix(model->weights.head, copy.Tensors().at(kEmbedding), "head");
  EXPECT_EQ(model->weights.centroids.data, nullptr);
  EXPECT_EQ(model->weights.first_cluster.data, nullptr);
  EXPECT_EQ(model->weights.cluster_ids, nullptr);
}

// Clusters of 16 rows, a tile, and of 12, which is none.
TEST(AssistantLoadTest, AClusteredHeadLiesInTheOrderOfItsClusters) {
  for (const auto& [variant, rows] : {std::pair("e2b-like", 16), std::pair("e4b-like", 12)}) {
    const AssistantCopy copy(variant);
    const absl::StatusOr<AssistantModel> model = copy.Load();
    ASSERT_TRUE(model.ok()) << model.status();
    const RawTensors tensors = copy.Tensors();
    const AssistantWeights& weights = model->weights;
    const std::vector<int64_t> order = Ordering(tensors.at(kOrdering));
    EXPECT_TRUE(std::equal(order.begin(), order.end(), weights.cluster_ids));
    EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));  // or this shows nothing
    ExpectMatrix(weights.centroids, tensors.at("masked_embedding.centroids.weight"), "centroids");
    EXPECT_EQ(weights.head.data, nullptr);
    ASSERT_EQ(weights.first_cluster.out, rows);
    const int in = weights.first_cluster.in;
    for (size_t j = 0; j < order.size(); ++j) {
      const kernels::Bf16* cluster =
          weights.first_cluster.data + j / rows * weights.cluster_elements;
      for (int k = 0; k < in; ++k) {
        ASSERT_EQ(Packed(cluster, in, static_cast<int>(j % rows), k),
                  Element(tensors.at(kEmbedding), order[j], k))
            << variant << " " << j << " " << k;
      }
    }
    // Whatever a product reads behind the last row of a cluster is zero.
    for (int n = rows; n < (rows + 15) / 16 * 16; ++n) {
      for (int k = 0; k < in; ++k) {
        ASSERT_EQ(Packed(weights.first_cluster.data, in, n, k), 0);
      }
    }
  }
}

TEST(AssistantLoadTest, TheOrderingMayBeStoredAsInt32) {
  const AssistantCopy copy("e4b-like");
  const std::vector<int64_t> wide = Ordering(copy.Tensors().at(kOrdering));
  copy.EditTensors([&](RawTensors& tensors) {
    tensors[kOrdering] = OrderingTensor(std::vector<int32_t>(wide.begin(), wide.end()));
  });
  const absl::StatusOr<AssistantModel> model = copy.Load();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(std::equal(wide.begin(), wide.end(), model->weights.cluster_ids));
}

TEST(AssistantLoadTest, WithoutAGenerationConfigTheDefaultsHold) {
  const AssistantCopy copy("26b-like");
  EXPECT_EQ(copy.Load()->config.draft_tokens, 4);
  std::filesystem::remove(copy.file("generation_config.json"));
  const absl::StatusOr<AssistantModel> model = copy.Load();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->config.draft_tokens, 0);
}

TEST(AssistantLoadTest, OneLayerIsEnough) {
  for (const int kept : {0, 3}) {  // a sliding and a full one
    const AssistantCopy copy("31b-like");
    copy.EditJson([&](json& config) {
      json& text = config["text_config"];
      text["num_hidden_layers"] = text["num_kv_shared_layers"] = 1;
      text["layer_types"] = {text["layer_types"][kept]};
      text["per_layer_config"] = json::object();
      if (kept == 3)
        text["per_layer_config"]["0"] = {{"head_dim", 512}, {"num_key_value_heads", 1}};
    });
    copy.EditTensors([&](RawTensors& tensors) {
      const std::string from = "model.layers." + std::to_string(kept) + ".";
      RawTensors result;
      for (const auto& [name, tensor] : tensors) {
        if (name.starts_with(from)) {
          result["model.layers.0." + name.substr(from.size())] = tensor;
        } else if (!name.starts_with("model.layers.")) {
          result[name] = tensor;
        }
      }
      tensors = result;
    });
    const absl::StatusOr<AssistantModel> model = copy.Load();
    ASSERT_TRUE(model.ok()) << kept << ": " << model.status();
    EXPECT_EQ(model->config.layers[0].kv_owner, kept == 3 ? 5 : 4);
  }
}

TEST(AssistantLoadTest, ProgressEndsAtTheTotal) {
  const AssistantCopy copy("e2b-like");
  const kernels::CpuBackendPtr backend = *kernels::MakeCpuBackend({.threads = 1});
  size_t done = 0, total = 1;
  ASSERT_TRUE(
      LoadAssistant(copy.dir(), copy.target, kernels::CpuOps(*backend), [&](size_t d, size_t t) {
        EXPECT_GE(d, done);
        done = d;
        total = t;
      }).ok());
  EXPECT_EQ(done, total);
}

// ---- foreign and damaged ones ----

TEST(AssistantLoadTest, AnAssistantOfAnotherTargetIsRefusedWithEveryMismatch) {
  AssistantCopy copy("e2b-like");
  copy.target = GoldenTarget("e4b-like");
  const absl::Status refused = copy.Refused();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr(copy.dir()), HasSubstr("backbone_hidden_size is 96"),
                    HasSubstr("vocab_size is 1024"), HasSubstr("sliding_window is 24"),
                    HasSubstr("num_key_value_heads"), HasSubstr("--draft-model none")));
}

TEST(AssistantLoadTest, ATargetInPlaceOfAnAssistantIsRefused) {
  const kernels::CpuBackendPtr backend = *kernels::MakeCpuBackend({.threads = 1});
  const std::string directory = GoldenDir("e2b-like") + "/target";
  const ModelConfig target = *ReadModelConfig(directory);
  EXPECT_THAT(
      std::string(
          LoadAssistant(directory, target, kernels::CpuOps(*backend), nullptr).status().message()),
      AllOf(HasSubstr(directory), HasSubstr("model_type is \"gemma4\""), HasSubstr("drafter")));
}

TEST(AssistantLoadTest, AFolderWithoutWeightsIsRefused) {
  const AssistantCopy copy("e2b-like");
  std::filesystem::remove(copy.file("model.safetensors"));
  const absl::Status refused = copy.Refused();
  EXPECT_EQ(refused.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(refused.message()), HasSubstr(copy.dir()));
}

TEST(AssistantLoadTest, ACutOffFileNamesFileAndTensor) {
  const AssistantCopy copy("e2b-like");
  const std::string bytes = ReadAll(copy.file("model.safetensors"));
  for (const size_t size : {bytes.size() - 1, bytes.size() / 2}) {
    WriteAll(copy.file("model.safetensors"), bytes.substr(0, size));
    EXPECT_THAT(copy.Refusal(), AllOf(HasSubstr("model.safetensors: tensor \""), HasSubstr("cut")));
  }
  for (const size_t size : {size_t{1000}, size_t{7}, size_t{0}}) {
    WriteAll(copy.file("model.safetensors"), bytes.substr(0, size));
    EXPECT_THAT(copy.Refusal(), HasSubstr("model.safetensors"));
  }
}

struct BadTensors {
  const char* name;
  const char* variant;
  std::function<void(RawTensors&)> change;
  std::vector<std::string> expected;  // parts of the message
};

class BadAssistantTest : public ::testing::TestWithParam<BadTensors> {};

TEST_P(BadAssistantTest, IsRefusedByName) {
  const AssistantCopy copy(GetParam().variant);
  copy.EditTensors(GetParam().change);
  const std::string message = copy.Refusal();
  EXPECT_THAT(message, HasSubstr(copy.dir()));
  for (const std::string& part : GetParam().expected) EXPECT_THAT(message, HasSubstr(part));
}

// Changes entries of the ordering table.
std::function<void(RawTensors&)> Reorder(const std::function<void(std::vector<int64_t>&)>& change) {
  return [change](RawTensors& tensors) {
    std::vector<int64_t> ids = Ordering(tensors[kOrdering]);
    change(ids);
    tensors[kOrdering] = OrderingTensor(ids);
  };
}

void SetBf16(RawTensor& tensor, size_t element, uint16_t bits) {
  std::memcpy(tensor.bytes.data() + 2 * element, &bits, 2);
}

const BadTensors kBadTensors[] = {
    // Bug table P-8: a conversion that loses the table.
    {"OrderingOfZeros",
     "e2b-like",
     Reorder([](std::vector<int64_t>& ids) { std::fill(ids.begin(), ids.end(), 0); }),
     {"token_ordering", "entry 1 is 0, as entry 0", "original checkpoint"}},
    {"OrderingWithADuplicate",
     "e2b-like",
     Reorder([](std::vector<int64_t>& ids) { ids[700] = ids[3]; }),
     {"token_ordering", "entry 700 is ", "as entry 3"}},
    {"OrderingOutOfRange",
     "e2b-like",
     Reorder([](std::vector<int64_t>& ids) { ids[5] = 1024; }),
     {"token_ordering", "entry 5 is 1024;", "below 1024"}},
    {"OrderingNegative",
     "e2b-like",
     Reorder([](std::vector<int64_t>& ids) { ids[5] = -1; }),
     {"token_ordering", "entry 5 is -1;"}},
    {"OrderingBeyondInt32",
     "e2b-like",
     Reorder([](std::vector<int64_t>& ids) { ids[5] += int64_t{1} << 32; }),
     {"token_ordering", "entry 5 is 4294"}},
    {"OrderingTruncated",
     "e2b-like",
     Reorder([](std::vector<int64_t>& ids) { ids.pop_back(); }),
     {"token_ordering", "[1023]", "[1024]"}},
    {"OrderingOfFloats",
     "e2b-like",
     [](RawTensors& tensors) {
       tensors[kOrdering].dtype = "BF16";
       tensors[kOrdering].bytes.resize(2 * 1024);
     },
     {"token_ordering", "BF16", "I64, I32"}},
    {"NoOrdering",
     "e2b-like",
     [](RawTensors& tensors) { tensors.erase(kOrdering); },
     {"token_ordering", "[1024] is missing"}},
    {"NoCentroids",
     "e2b-like",
     [](RawTensors& tensors) { tensors.erase("masked_embedding.centroids.weight"); },
     {"masked_embedding.centroids.weight", "[64, 64] is missing"}},
    {"ClustersLost",
     "e2b-like",
     [](RawTensors& tensors) {
       tensors.erase(kOrdering);
       tensors.erase("masked_embedding.centroids.weight");
     },
     {"use_ordered_embeddings is true", "no tensor masked_embedding.*"}},
    {"ClustersNotAnnounced",
     "12b-like",
     [](RawTensors& tensors) {
       tensors[kOrdering] = {"I64", {1}, std::string(8, '\0')};
     },
     {"token_ordering", "use_ordered_embeddings is false"}},
    {"NoLayerScalar",
     "31b-like",
     [](RawTensors& tensors) { tensors.erase(kScalar); },
     {kScalar, "[1] is missing"}},
    {"LayerScalarNotANumber",
     "31b-like",
     [](RawTensors& tensors) { SetBf16(tensors[kScalar], 0, 0x7fc0); },
     {kScalar, "value 0 is not finite"}},
    {"NormInfinite",
     "31b-like",
     [](RawTensors& tensors) { SetBf16(tensors["model.norm.weight"], 9, 0x7f80); },
     {"model.norm.weight", "value 9 is not finite"}},
    {"ProjectionOfAnotherWidth",
     "31b-like",
     [](RawTensors& tensors) {
       RawTensor& pre = tensors["pre_projection.weight"];
       pre.shape = {64, 96};
       pre.bytes.resize(2 * 64 * 96);
     },
     {"pre_projection.weight", "[64, 96]", "[64, 192]"}},
    {"WeightsOfAnotherType",
     "31b-like",
     [](RawTensors& tensors) { tensors["post_projection.weight"].dtype = "F16"; },
     {"post_projection.weight", "F16", "BF16"}},
    {"UnknownTensor",
     "31b-like",
     [](RawTensors& tensors) { tensors["model.layers.0.self_attn.sinks"] = tensors[kScalar]; },
     {"model.layers.0.self_attn.sinks", "belongs to no weight"}},
    {"UnknownTensorOutsideTheModel",
     "31b-like",
     [](RawTensors& tensors) { tensors["vision_tower.patch.weight"] = tensors[kScalar]; },
     {"vision_tower.patch.weight", "belongs to no weight"}},
    {"MoreLayersThanAnnounced",
     "31b-like",
     [](RawTensors& tensors) {
       tensors["model.layers.4.self_attn.k_proj.weight"] = tensors[kScalar];
     },
     {"model.layers.4.self_attn.k_proj", "belongs to no weight"}},
    {"HeadOfItsOwn",
     "e4b-like",
     [](RawTensors& tensors) { SetBf16(tensors["lm_head.weight"], 36863, 0x4000); },
     {"lm_head.weight", "differs from \"model.embed_tokens.weight\""}},
    {"HeadOfAnotherSize",
     "e4b-like",
     [](RawTensors& tensors) {
       tensors["lm_head.weight"].shape = {64, 32};
       tensors["lm_head.weight"].bytes.resize(2 * 64 * 32);
     },
     {"lm_head.weight", "[64, 32]", "[1152, 32]"}},
};

INSTANTIATE_TEST_SUITE_P(Tensors, BadAssistantTest, ::testing::ValuesIn(kBadTensors),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(AssistantLoadTest, DeadKeyAndValueTensorsAreToleratedAndToldOf) {
  const AssistantCopy copy("31b-like");
  const RawTensor any = copy.Tensors().at(kScalar);
  copy.EditTensors([&](RawTensors& tensors) {
    for (const char* layer : {"0", "3"}) {
      const std::string prefix = std::string("model.layers.") + layer + ".self_attn.";
      tensors[prefix + "k_proj.weight"] = tensors[prefix + "k_norm.weight"] = any;
    }
    tensors["model.layers.1.self_attn.v_proj.weight"] = any;
  });
  const absl::StatusOr<AssistantModel> model = copy.Load();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(CheckAssistant(copy.dir(), copy.target).ok());
  EXPECT_THAT(model->warnings,
              ElementsAre(HasSubstr("self_attn.k_norm.weight of layers 0, 3 are ignored"),
                          HasSubstr("self_attn.k_proj.weight of layers 0, 3 are ignored"),
                          HasSubstr("self_attn.v_proj.weight of layers 1 are ignored")));
}

// ---- dummy weights ----

TEST(AssistantLoadTest, DummyWeightsDependOnTheSeedAlone) {
  const kernels::CpuBackendPtr one = *kernels::MakeCpuBackend({.threads = 1});
  const kernels::CpuBackendPtr two = *kernels::MakeCpuBackend({.threads = 2});
  const AssistantCopy copy("e4b-like");
  AssistantConfig config = *ReadAssistantConfig(copy.dir());
  ASSERT_TRUE(FitToTarget(copy.target, config).ok());
  const AssistantModel a = *LoadDummyAssistant(config, 5, kernels::CpuOps(*one), nullptr);
  const AssistantModel b = *LoadDummyAssistant(config, 5, kernels::CpuOps(*two), nullptr);
  const AssistantModel c = *LoadDummyAssistant(config, 6, kernels::CpuOps(*two), nullptr);
  const size_t bytes = AssistantWeightBytes(config);
  EXPECT_EQ(std::memcmp(a.memory.data(), b.memory.data(), bytes), 0);
  EXPECT_NE(std::memcmp(a.memory.data(), c.memory.data(), bytes), 0);
  EXPECT_EQ(a.config.layers[0].kv_owner, 4);
  EXPECT_EQ(a.checkpoint_tensors, 0u);
  std::vector<int32_t> ids(config.vocab);
  std::iota(ids.begin(), ids.end(), 0);
  EXPECT_TRUE(std::equal(ids.begin(), ids.end(), a.weights.cluster_ids));
  EXPECT_EQ(a.weights.layers[0].layer_scalar[0], 1.0f);
  EXPECT_NE(a.weights.first_cluster.data[a.weights.cluster_elements].bits, 0);
}

}  // namespace
}  // namespace tandem::engine
