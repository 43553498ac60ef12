// An assistant's config.json: what is read, the published shapes, what is refused (T01 of mtp.md
// 5.3).

#include "engine/assistant_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "engine/assistant_weights.h"
#include "tests/engine/checkpoint_copy.h"
#include "tests/engine/engine_rig.h"
#include "tests/engine/small_assistant.h"

namespace tandem::engine {
namespace {

using nlohmann::json;
using tandem::testing::Donors;
using tandem::testing::GoldenDir;
using tandem::testing::GoldenTarget;
using tandem::testing::ParseAssistant;
using tandem::testing::ReadAll;
using tandem::testing::SmallAssistantConfig;
using tandem::testing::SmallTarget;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const char* const kShapes[] = {"e2b", "e4b", "12b", "26b", "31b"};

// ---- what is read ----

TEST(AssistantConfigTest, KeysOfBothLevelsAreRead) {
  json config = SmallAssistantConfig();
  config["use_ordered_embeddings"] = true;
  config["num_centroids"] = 64;
  config["centroid_intermediate_top_k"] = 8;
  config["text_config"]["final_logit_softcapping"] = 30.0;
  config["text_config"]["rms_norm_eps"] = 1e-5;
  const absl::StatusOr<AssistantConfig> parsed =
      ParseAssistant(config, R"({"num_assistant_tokens": 4, "suppress_tokens": [9, 8, 9]})");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->model_type, "gemma4_assistant");
  EXPECT_EQ(parsed->backbone_hidden, 96);
  EXPECT_EQ(parsed->hidden, 64);
  EXPECT_EQ(parsed->vocab, 1024);
  EXPECT_FLOAT_EQ(parsed->rms_eps, 1e-5f);
  EXPECT_FLOAT_EQ(parsed->logit_softcap, 30.0f);
  EXPECT_TRUE(parsed->clustered);
  EXPECT_EQ(parsed->num_clusters, 64);
  EXPECT_EQ(parsed->clusters_per_token, 8);
  EXPECT_EQ(parsed->cluster_rows(), 16);
  EXPECT_EQ(parsed->draft_tokens, 4);
  EXPECT_THAT(parsed->suppressed_ids, ElementsAre(8, 9));
  ASSERT_EQ(parsed->num_layers(), 2);
  EXPECT_FALSE(parsed->layers[0].full);
  EXPECT_EQ(parsed->layers[0].head_dim, 256);
  EXPECT_EQ(parsed->layers[0].window, 24);
  EXPECT_TRUE(parsed->layers[1].full);
  EXPECT_EQ(parsed->layers[1].head_dim, 512);
  EXPECT_EQ(parsed->layers[1].mlp_width, 128);
  EXPECT_THAT(Donors(*parsed), ElementsAre(-1, -1));
}

TEST(AssistantConfigTest, WithoutAGenerationConfigTheDefaultsHold) {
  const absl::StatusOr<AssistantConfig> parsed = ParseAssistant(SmallAssistantConfig());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->draft_tokens, 0);
  EXPECT_THAT(parsed->suppressed_ids, IsEmpty());
  EXPECT_FALSE(parsed->clustered);
}

TEST(AssistantConfigTest, TheTextKeysMayStandAtTheTopLevel) {
  json flat = SmallAssistantConfig()["text_config"];
  flat["model_type"] = "gemma4_assistant";
  flat["backbone_hidden_size"] = 96;
  const absl::StatusOr<AssistantConfig> parsed = ParseAssistant(flat);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->layers[1].head_dim, 512);
}

TEST(AssistantConfigTest, PerLayerConfigGivesTheSizesOfFullLayers) {
  json config = SmallAssistantConfig();
  config["text_config"]["per_layer_config"] = {
      {"1", {{"head_dim", 512}, {"num_key_value_heads", 1}}}};
  const absl::StatusOr<AssistantConfig> parsed = ParseAssistant(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->layers[0].num_kv_heads, 2);
  EXPECT_EQ(parsed->layers[1].num_kv_heads, 1);
  EXPECT_EQ(parsed->layers[1].head_dim, 512);
}

// Bug table S0-7: the unified architecture is the same one.
TEST(AssistantConfigTest, TheUnifiedNameDiffersInDefaultsAlone) {
  json plain = SmallAssistantConfig(), unified = SmallAssistantConfig();
  unified["model_type"] = "gemma4_unified_assistant";
  unified["text_config"]["model_type"] = "gemma4_unified_text";
  for (json* each : {&plain, &unified}) {
    each->erase("backbone_hidden_size");
    (*each)["text_config"].erase("sliding_window");
  }
  const absl::StatusOr<AssistantConfig> a = ParseAssistant(plain), b = ParseAssistant(unified);
  ASSERT_TRUE(a.ok()) << a.status();
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ(a->backbone_hidden, 1536);
  EXPECT_EQ(b->backbone_hidden, 3840);
  EXPECT_EQ(a->layers[0].window, 512);
  EXPECT_EQ(b->layers[0].window, 1024);
}

// Bug table S0-8, S3-1, P-35: no layer of its own K/V, however that is spelled.
TEST(AssistantConfigTest, EveryLayerSharesWhetherTheFileSaysSoOrNot) {
  for (const json& shared : {json(2), json(0), json(nullptr)}) {
    json config = SmallAssistantConfig();
    config["text_config"]["num_kv_shared_layers"] = shared;
    absl::StatusOr<AssistantConfig> parsed = ParseAssistant(config);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ASSERT_TRUE(FitToTarget(SmallTarget("SF"), *parsed).ok());
    EXPECT_THAT(Donors(*parsed), ElementsAre(0, 1)) << shared;
  }
}

TEST(AssistantConfigTest, AnyNumberOfLayersAndAnyPatternIsLegal) {
  for (const char* pattern : {"S", "F", "FS", "SSSS", "FFSFSSS"}) {
    json types = json::array();
    std::vector<int> expected;
    for (const char* c = pattern; *c != 0; ++c) {
      types.push_back(*c == 'F' ? "full_attention" : "sliding_attention");
      expected.push_back(*c == 'F' ? 3 : 4);
    }
    json config = SmallAssistantConfig();
    config["text_config"]["layer_types"] = types;
    config["text_config"]["num_hidden_layers"] = types.size();
    config["text_config"]["num_kv_shared_layers"] = types.size();
    absl::StatusOr<AssistantConfig> parsed = ParseAssistant(config);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const absl::Status fit = FitToTarget(SmallTarget("SSSFS"), *parsed);
    ASSERT_TRUE(fit.ok()) << fit;
    EXPECT_EQ(Donors(*parsed), expected) << pattern;
  }
}

// ---- published shapes ----

// Donors, parameters and bytes per draft step as in mtp.md 1.2.
TEST(AssistantConfigTest, PublishedShapesFitTheirTargetsAndHaveTheirSizes) {
  struct Expected {
    std::vector<int> donors;
    double parameters;
    double step_bytes;
  };
  const Expected kExpected[] = {{{13, 13, 13, 14}, 77.7e6, 23e6},
                                {{22, 22, 22, 23}, 78.5e6, 25e6},
                                {{46, 46, 46, 47}, 422.8e6, 846e6},
                                {{28, 28, 28, 29}, 419.7e6, 839e6},
                                {{58, 58, 58, 59}, 469.5e6, 939e6}};
  for (int i = 0; i < 5; ++i) {
    const Expected& expected = kExpected[i];
    absl::StatusOr<AssistantConfig> config = PublishedAssistantShape(kShapes[i]);
    ASSERT_TRUE(config.ok()) << config.status();
    const absl::Status fit = FitToTarget(*PublishedShape(kShapes[i]), *config);
    ASSERT_TRUE(fit.ok()) << fit;
    EXPECT_EQ(Donors(*config), expected.donors) << kShapes[i];

    AssistantWeights weights;
    std::vector<WeightItem> items;
    const size_t bytes = LayOutAssistantWeights(*config, nullptr, weights, items);
    double parameters = 0, step_bytes = 0;
    for (const WeightItem& item : items) {
      if (item.kind == WeightItem::Kind::kTokenIds) continue;  // no parameter
      const double size = static_cast<double>(NumElements(item));
      parameters += size;
      const double read = item.kind == WeightItem::Kind::kClusters
                              ? size * config->clusters_per_token / config->num_clusters
                              : size;
      step_bytes += 2 * read;
    }
    EXPECT_NEAR(parameters / expected.parameters, 1.0, 1e-3) << kShapes[i];
    EXPECT_NEAR(step_bytes / expected.step_bytes, 1.0, 2e-2) << kShapes[i];
    // Packing pads nothing at these shapes; vectors are widened, and ids are kept.
    EXPECT_EQ(bytes, AssistantWeightBytes(*config));
    EXPECT_NEAR(static_cast<double>(bytes) / (2 * parameters), 1.0, 1e-2) << kShapes[i];
    EXPECT_EQ(config->clustered, i < 2) << kShapes[i];
  }
  EXPECT_THAT(std::string(PublishedAssistantShape("7b").status().message()),
              HasSubstr("e2b, e4b, 12b"));
}

TEST(AssistantConfigTest, RotationsAreThoseOfTheTarget) {
  for (const char* shape : kShapes) {
    const AssistantConfig config = *PublishedAssistantShape(shape);
    const ModelConfig target = *PublishedShape(shape);
    EXPECT_EQ(config.InvFreq(kSliding), target.InvFreq(kSliding)) << shape;
    EXPECT_EQ(config.InvFreq(kFull), target.InvFreq(kFull)) << shape;
    EXPECT_EQ(config.InvFreq(kFull).size(), 64u);
  }
}

// ---- bad files ----

struct BadConfig {
  const char* name;
  std::function<void(json& root, json& text)> change;
  std::vector<std::string> expected;  // parts of the message
};

class BadAssistantConfigTest : public ::testing::TestWithParam<BadConfig> {};

TEST_P(BadAssistantConfigTest, IsRefusedByName) {
  json config = SmallAssistantConfig();
  json text = config["text_config"];
  GetParam().change(config, text);
  if (config.contains("text_config") && config["text_config"].is_object()) {
    config["text_config"] = text;
  }
  const absl::StatusOr<AssistantConfig> parsed = ParseAssistant(config);
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(parsed.status().message());
  EXPECT_THAT(message, HasSubstr("config.json: "));
  for (const std::string& part : GetParam().expected) EXPECT_THAT(message, HasSubstr(part));
}

const BadConfig kBadConfigs[] = {
    {"ATarget",
     [](json& c, json&) { c["model_type"] = "gemma4"; },
     {"model_type is \"gemma4\"", "gemma4_assistant", "--draft-model"}},
    {"NoType",
     [](json& c, json& t) {
       c.erase("model_type");
       t.erase("model_type");
     },
     {"model_type is missing"}},
    {"TextOfAnotherFamily",
     [](json&, json& t) { t["model_type"] = "qwen3"; },
     {"text_config.model_type is \"qwen3\"", "gemma4_text"}},
    {"TextIsAList", [](json& c, json&) { c["text_config"] = json::array(); }, {"text_config"}},
    {"Widened",
     [](json&, json& t) { t["hidden_size"] = 96; },
     {"hidden_size is 96, the same as backbone_hidden_size", "original checkpoint"}},
    {"BackboneIsText",
     [](json& c, json&) { c["backbone_hidden_size"] = "96"; },
     {"backbone_hidden_size is \"96\", not an integer"}},
    {"BackboneNegative",
     [](json& c, json&) { c["backbone_hidden_size"] = -1; },
     {"backbone_hidden_size is -1", "outside 1.."}},
    {"BackboneHuge",
     [](json& c, json&) { c["backbone_hidden_size"] = 1ull << 63; },
     {"backbone_hidden_size is 9223372036854775808", "outside"}},
    {"SomeLayersShare",
     [](json&, json& t) { t["num_kv_shared_layers"] = 1; },
     {"num_kv_shared_layers is 1 of 2 layers"}},
    {"SharesMoreThanAll",
     [](json&, json& t) { t["num_kv_shared_layers"] = 3; },
     {"num_kv_shared_layers is 3", "0..2"}},
    {"NoLayers",
     [](json&, json& t) { t["num_hidden_layers"] = 0; },
     {"num_hidden_layers is 0", "1..4096"}},
    {"PerLayerEmbeddings",
     [](json&, json& t) { t["hidden_size_per_layer_input"] = 256; },
     {"hidden_size_per_layer_input is 256", "(0)"}},
    {"Experts",
     [](json&, json& t) { t["enable_moe_block"] = true; },
     {"enable_moe_block is true", "experts"}},
    {"DoubleWide",
     [](json&, json& t) { t["use_double_wide_mlp"] = true; },
     {"use_double_wide_mlp is true"}},
    {"Untied",
     [](json& c, json&) { c["tie_word_embeddings"] = false; },
     {"tie_word_embeddings is false", "embedding"}},
    {"UntiedInside",
     [](json&, json& t) { t["tie_word_embeddings"] = false; },
     {"tie_word_embeddings is false"}},
    {"UnevenClusters",
     [](json& c, json&) {
       c.update({{"use_ordered_embeddings", true}, {"num_centroids", 60}});
     },
     {"num_centroids is 60", "vocab_size = 1024"}},
    {"NoClusters",
     [](json& c, json&) {
       c.update({{"use_ordered_embeddings", true}, {"num_centroids", 0}});
     },
     {"num_centroids is 0", "outside 1.."}},
    {"NoClusterChosen",
     [](json& c, json&) {
       c.update({{"use_ordered_embeddings", true},
                 {"num_centroids", 64},
                 {"centroid_intermediate_top_k", 0}});
     },
     {"centroid_intermediate_top_k is 0", "outside 1.."}},
    {"MoreClustersThanThereAre",
     [](json& c, json&) {
       c.update({{"use_ordered_embeddings", true},
                 {"num_centroids", 64},
                 {"centroid_intermediate_top_k", 65}});
     },
     {"centroid_intermediate_top_k is 65", "num_centroids = 64"}},
    {"HeadKindIsANumber",
     [](json& c, json&) { c["use_ordered_embeddings"] = 1; },
     {"use_ordered_embeddings is 1, not true or false"}},
    {"LayerType",
     [](json&, json& t) {
       t["layer_types"] = {"full_attention", "linear_attention"};
     },
     {"layer_types", "linear_attention"}},
    {"Bias", [](json&, json& t) { t["attention_bias"] = true; }, {"attention_bias"}},
    {"Activation",
     [](json&, json& t) { t["hidden_activation"] = "gelu"; },
     {"hidden_activation", "gelu_pytorch_tanh"}},
    {"Quantised",
     [](json& c, json&) { c["quantization_config"] = json::object(); },
     {"quantization_config"}},
};

INSTANTIATE_TEST_SUITE_P(Configs, BadAssistantConfigTest, ::testing::ValuesIn(kBadConfigs),
                         [](const auto& info) { return std::string(info.param.name); });

// Dense heads are published with these two keys, whose values fit nothing of theirs.
TEST(AssistantConfigTest, ADenseHeadIgnoresTheClusterKeys) {
  json config = SmallAssistantConfig();
  config["num_centroids"] = 2000;
  config["centroid_intermediate_top_k"] = 4000;
  const absl::StatusOr<AssistantConfig> parsed = ParseAssistant(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->num_clusters, 0);
  EXPECT_EQ(parsed->cluster_rows(), 0);
}

TEST(AssistantConfigTest, ABadGenerationConfigIsNamed) {
  const auto refusal = [](const std::string& generation) {
    return std::string(ParseAssistant(SmallAssistantConfig(), generation).status().message());
  };
  EXPECT_THAT(refusal("{"), AllOf(HasSubstr("generation_config.json"), HasSubstr("JSON")));
  EXPECT_THAT(refusal(R"({"num_assistant_tokens": -1})"),
              AllOf(HasSubstr("generation_config.json"), HasSubstr("num_assistant_tokens is -1")));
  EXPECT_THAT(refusal(R"({"num_assistant_tokens": 4.5})"), HasSubstr("num_assistant_tokens"));
  EXPECT_THAT(refusal(R"({"suppress_tokens": [1024]})"),
              AllOf(HasSubstr("suppress_tokens"), HasSubstr("1024")));
}

TEST(AssistantConfigTest, AMissingDirectoryIsNamed) {
  const absl::StatusOr<AssistantConfig> config = ReadAssistantConfig("/nowhere/assistant");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(config.status().message()),
              AllOf(HasSubstr("/nowhere/assistant/config.json"), HasSubstr("--draft-model")));
}

TEST(AssistantConfigTest, CutOffOrMutatedFilesNeverCrash) {
  const ModelConfig target = GoldenTarget("e2b-like");
  const std::string config = ReadAll(GoldenDir("e2b-like") + "/assistant/config.json");
  ASSERT_TRUE(ParseAssistantConfig(config, "", "config.json").ok());
  for (size_t size = 0; size + 2 < config.size(); size += 7) {
    EXPECT_FALSE(ParseAssistantConfig(config.substr(0, size), "", "config.json").ok()) << size;
  }
  for (size_t at = 0; at < config.size(); ++at) {  // any result is fine, a crash is not
    std::string mutated = config;
    mutated[at] = static_cast<char>('0' + at % 64);
    absl::StatusOr<AssistantConfig> parsed = ParseAssistantConfig(mutated, mutated, "config.json");
    if (parsed.ok() && FitToTarget(target, *parsed).ok()) (void)AssistantWeightBytes(*parsed);
  }
}

TEST(AssistantConfigTest, HostileValuesNeverCrash) {
  std::string nested(1000, '[');
  nested += std::string(1000, ']');
  const std::string values[] = {"-9223372036854775808",
                                "18446744073709551615",
                                "1e308",
                                "-1e308",
                                "16777216",
                                "-1",
                                "\"x\"",
                                "true",
                                "[]",
                                "{}",
                                "null",
                                nested};
  const json config = json::parse(ReadAll(GoldenDir("31b-like") + "/assistant/config.json"));
  const ModelConfig target = GoldenTarget("31b-like");
  for (const json& level : {config, config["text_config"]}) {
    const bool outer = level.contains("text_config");
    for (const auto& [key, old] : level.items()) {
      for (const std::string& value : values) {
        json changed = config;
        (outer ? changed : changed["text_config"])[key] = "@";
        std::string text = changed.dump();
        const size_t at = text.find("\"@\"");
        ASSERT_NE(at, std::string::npos);
        text.replace(at, 3, value);
        absl::StatusOr<AssistantConfig> parsed = ParseAssistantConfig(text, text, "config.json");
        if (parsed.ok() && FitToTarget(target, *parsed).ok()) (void)AssistantWeightBytes(*parsed);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::engine
