// config.json: defaults, descriptors, the published shapes, and what is refused.

#include "engine/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/weights.h"
#include "tests/engine/engine_rig.h"

namespace tandem::engine {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json MinimalConfig() {
  return {{"model_type", "gemma4_text"}, {"hidden_size", 96},
          {"num_hidden_layers", 12},     {"num_attention_heads", 4},
          {"num_key_value_heads", 2},    {"intermediate_size", 128},
          {"vocab_size", 1024},          {"vocab_size_per_layer_input", 1024}};
}

absl::StatusOr<ModelConfig> Parse(const json& config, const std::string& generation = "") {
  return ParseModelConfig(config.dump(), generation, "config.json");
}

std::string Refusal(const json& config) {
  const absl::StatusOr<ModelConfig> parsed = Parse(config);
  EXPECT_FALSE(parsed.ok());
  return std::string(parsed.status().message());
}

TEST(ModelConfigTest, MissingKeysTakeTheArchitecturesDefaults) {
  const absl::StatusOr<ModelConfig> config = Parse(MinimalConfig());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->sliding_window, 512);
  EXPECT_EQ(config->ple_width, 256);
  EXPECT_EQ(config->logit_softcap, 0.0f);
  EXPECT_TRUE(config->tied_head);
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(config->layers[i].full, i == 5 || i == 11) << i;
    EXPECT_EQ(config->layers[i].head_dim, config->layers[i].full ? 512 : 256);
    EXPECT_EQ(config->layers[i].window, config->layers[i].full ? 0 : 512);
  }
  json unified = MinimalConfig();
  unified["model_type"] = "gemma4_unified_text";
  EXPECT_EQ(Parse(unified)->ple_width, 0);
  EXPECT_EQ(Parse(unified)->sliding_window, 1024);
}

TEST(ModelConfigTest, TheLastLayerIsAlwaysFull) {
  json config = MinimalConfig();
  config["layer_types"] = json(std::vector<std::string>(12, "sliding_attention"));
  EXPECT_TRUE(Parse(config)->layers[11].full);
}

TEST(ModelConfigTest, DonorsAreTheLastOwnersOfTheirType) {
  const absl::StatusOr<ModelConfig> e2b = PublishedShape("e2b");
  ASSERT_TRUE(e2b.ok()) << e2b.status();
  EXPECT_EQ(e2b->first_shared, 15);
  const absl::StatusOr<ModelConfig> e4b = PublishedShape("e4b");
  ASSERT_TRUE(e4b.ok()) << e4b.status();
  EXPECT_EQ(e4b->first_shared, 24);
  for (int i = 15; i < 35; ++i) EXPECT_EQ(e2b->layers[i].kv_owner, e2b->layers[i].full ? 14 : 13);
  for (int i = 24; i < 42; ++i) EXPECT_EQ(e4b->layers[i].kv_owner, e4b->layers[i].full ? 23 : 22);
  EXPECT_THAT(e2b->KvOwners(kFull), ElementsAre(4, 9, 14));
  EXPECT_EQ(e2b->layers[34].kv_index, 2);
  EXPECT_EQ(e2b->layers[33].kv_index, 11);
}

// Text parameters of gemma4.md 1.1, as a check of every shape at once.
TEST(ModelConfigTest, PublishedShapesHaveThePublishedSizes) {
  const std::pair<const char*, double> kParameters[] = {
      {"e2b", 4.629e9}, {"e4b", 7.463e9}, {"12b", 11.907e9}, {"26b", 25.233e9}, {"31b", 30.697e9}};
  for (const auto& [name, parameters] : kParameters) {
    const absl::StatusOr<ModelConfig> config = PublishedShape(name);
    ASSERT_TRUE(config.ok()) << config.status();
    Weights weights;
    std::vector<WeightItem> items;
    LayOutWeights(*config, nullptr, weights, items);
    double count = PleTableBytes(*config) / 2.0;
    for (const WeightItem& item : items) {
      double size = item.kind == WeightItem::Kind::kGate ? 2 : 1;
      for (const int64_t dim : item.shape) size *= static_cast<double>(dim);
      count += size;
    }
    EXPECT_NEAR(count / parameters, 1.0, 2e-4) << name;
  }
  EXPECT_THAT(std::string(PublishedShape("7b").status().message()), HasSubstr("e2b, e4b, 12b"));
}

TEST(ModelConfigTest, RotaryFrequenciesEqualTheFixtures) {
  const absl::StatusOr<ModelConfig> config = PublishedShape("31b");
  const std::vector<float> sliding = config->InvFreq(kSliding);
  ASSERT_EQ(sliding.size(), 128u);
  EXPECT_FLOAT_EQ(sliding[1], 0.930572040929699f);
  EXPECT_FLOAT_EQ(sliding[63], 0.010746078283213f);
  EXPECT_FLOAT_EQ(sliding[127], 0.000107460782832f);
  const std::vector<float> full = config->InvFreq(kFull);
  ASSERT_EQ(full.size(), 64u);
  EXPECT_FLOAT_EQ(full[1], 0.947463525655375f);
  EXPECT_FLOAT_EQ(full[31], 0.187688429357622f);
  EXPECT_FLOAT_EQ(full[63], 0.033376246942920f);
}

TEST(ModelConfigTest, PerLayerConfigWinsOverModelLevelSizes) {
  json config = MinimalConfig();
  config["per_layer_config"] = {{"05", {{"head_dim", 512}, {"num_key_value_heads", 1}}},
                                {"11", {{"head_dim", 512}, {"num_key_value_heads", 1}}}};
  const absl::StatusOr<ModelConfig> parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->layers[5].head_dim, 512);
  EXPECT_EQ(parsed->layers[5].num_kv_heads, 1);
  EXPECT_EQ(parsed->layers[4].num_kv_heads, 2);
  config["per_layer_config"]["12"] = json::object();
  EXPECT_THAT(Refusal(config), AllOf(HasSubstr("per_layer_config"), HasSubstr("0..11")));
}

TEST(ModelConfigTest, GenerationConfigGivesStopsAndDefaults) {
  const absl::StatusOr<ModelConfig> config =
      Parse(MinimalConfig(), R"({"eos_token_id": [1, 106, 50], "temperature": 1.0, "top_k": 64,
                                 "top_p": 0.95, "suppress_tokens": [9, 8], "do_sample": true})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->generation.eos_ids, ElementsAre(1, 106, 50));
  EXPECT_THAT(config->generation.suppressed_ids, ElementsAre(9, 8));
  EXPECT_EQ(config->generation.top_k, 64);
  EXPECT_FLOAT_EQ(config->generation.top_p, 0.95f);
}

struct BadConfig {
  const char* name;
  std::function<void(json&)> change;
  std::vector<std::string> expected;  // parts of the message
};

class BadConfigTest : public ::testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigTest, IsRefusedByName) {
  json config = MinimalConfig();
  GetParam().change(config);
  const std::string message = Refusal(config);
  for (const std::string& part : GetParam().expected) EXPECT_THAT(message, HasSubstr(part));
}

const BadConfig kBadConfigs[] = {
    {"UnknownType", [](json& c) { c["model_type"] = "gemma3_text"; }, {"gemma3_text", "supported"}},
    {"Drafter", [](json& c) { c["model_type"] = "gemma4_assistant"; }, {"drafter", "--model"}},
    {"NoType", [](json& c) { c.erase("model_type"); }, {"model_type is missing"}},
    {"NoHidden", [](json& c) { c.erase("hidden_size"); }, {"hidden_size is missing"}},
    {"HiddenIsText", [](json& c) { c["hidden_size"] = "96"; }, {"hidden_size", "\"96\""}},
    {"HiddenNegative", [](json& c) { c["hidden_size"] = -1; }, {"hidden_size is -1", "1.."}},
    {"HiddenSmallest",
     [](json& c) { c["hidden_size"] = INT64_MIN; },
     {"hidden_size is -9223372036854775808", "outside"}},
    {"HiddenHuge", [](json& c) { c["hidden_size"] = 1ull << 63; }, {"hidden_size", "outside"}},
    {"LayersHuge",
     [](json& c) { c["num_hidden_layers"] = 1 << 20; },
     {"num_hidden_layers", "4096"}},
    {"Heads", [](json& c) { c["num_key_value_heads"] = 3; }, {"4 attention heads", "3 key/value"}},
    {"LayerTypes", [](json& c) { c["layer_types"] = {"full_attention"}; }, {"layer_types", "12"}},
    {"LayerType",
     [](json& c) { c["layer_types"] = json(std::vector<std::string>(12, "linear_attention")); },
     {"layer_types", "linear_attention"}},
    {"AllShared",
     [](json& c) { c["num_kv_shared_layers"] = 12; },
     {"num_kv_shared_layers is 12", "drafter"}},
    {"NoDonor",
     [](json& c) { c["num_kv_shared_layers"] = 9; },
     {"layer 5", "no earlier full layer"}},
    {"TooManyExperts",
     [](json& c) {
       c.update({{"enable_moe_block", true},
                 {"num_experts", 4},
                 {"top_k_experts", 5},
                 {"moe_intermediate_size", 8}});
     },
     {"top_k_experts is 5", "num_experts = 4"}},
    {"Quantised",
     [](json& c) { c["quantization_config"] = json::object(); },
     {"quantization_config"}},
    {"Activation", [](json& c) { c["hidden_activation"] = "silu"; }, {"hidden_activation", "silu"}},
    {"Bias", [](json& c) { c["attention_bias"] = true; }, {"attention_bias"}},
    {"RopeType",
     [](json& c) {
       c["rope_parameters"] = {{"full_attention", {{"rope_type", "yarn"}}}};
     },
     {"rope_parameters.full_attention", "yarn"}},
    {"EosOutOfRange", [](json& c) { c["eos_token_id"] = 5000; }, {"eos_token_id", "1024"}},
    {"OverrideUnknown",
     [](json& c) {
       c["per_layer_config"] = {{"1", {{"rank", 4}}}};
     },
     {"per_layer_config.1", "rank"}},
};

INSTANTIATE_TEST_SUITE_P(Configs, BadConfigTest, ::testing::ValuesIn(kBadConfigs),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ModelConfigTest, CutOffOrMutatedFilesNeverCrash) {
  std::ifstream file(tandem::testing::GoldenDir("31b-like") + "/target/config.json");
  std::stringstream text;
  text << file.rdbuf();
  const std::string config = text.str();
  ASSERT_TRUE(ParseModelConfig(config, "", "config.json").ok());
  for (size_t size = 0; size + 2 < config.size(); size += 7) {
    EXPECT_FALSE(ParseModelConfig(config.substr(0, size), "", "config.json").ok()) << size;
  }
  for (size_t at = 0; at < config.size(); ++at) {  // either result is fine, a crash is not
    std::string mutated = config;
    mutated[at] = static_cast<char>('0' + at % 64);
    (void)ParseModelConfig(mutated, mutated, "config.json");
  }
}

TEST(ModelConfigTest, AValueNestedWithoutEndIsRefusedInAFewWords) {
  std::string text = MinimalConfig().dump();
  const std::string key = "\"hidden_size\":96";
  const size_t at = text.find(key);
  ASSERT_NE(at, std::string::npos);
  text.replace(at, key.size(),
               "\"hidden_size\":" + std::string(300000, '[') + std::string(300000, ']'));
  const absl::StatusOr<ModelConfig> parsed = ParseModelConfig(text, "", "config.json");
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("hidden_size is a list"));
}

}  // namespace
}  // namespace tandem::engine
