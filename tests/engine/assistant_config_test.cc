// An assistant's config.json, and whether it fits a target (T01, T02 of mtp.md 5.3, the parts that
// need no tensors).

#include "engine/assistant_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "engine/assistant_weights.h"
#include "tests/engine/checkpoint_copy.h"
#include "tests/engine/engine_rig.h"

namespace tandem::engine {
namespace {

using nlohmann::json;
using tandem::testing::GoldenDir;
using tandem::testing::ReadAll;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAreArray;

const char* const kShapes[] = {"e2b", "e4b", "12b", "26b", "31b"};
const char* const kVariants[] = {"e2b-like", "e4b-like", "12b-like", "26b-like", "31b-like"};

// Fits the target of SmallTarget.
json SmallConfig() {
  const json types = {"sliding_attention", "full_attention"};
  return {{"model_type", "gemma4_assistant"},
          {"backbone_hidden_size", 96},
          {"text_config",
           {{"model_type", "gemma4_text"},
            {"hidden_size", 64},
            {"vocab_size", 1024},
            {"num_hidden_layers", 2},
            {"num_kv_shared_layers", 2},
            {"num_attention_heads", 4},
            {"num_key_value_heads", 2},
            {"intermediate_size", 128},
            {"sliding_window", 24},
            {"layer_types", types}}}};
}

absl::StatusOr<AssistantConfig> Parse(const json& config, const std::string& generation = "") {
  return ParseAssistantConfig(config.dump(), generation, "config.json");
}

// A target with these layers, S sliding and F full, the last `shared` of which share K/V. Built by
// hand: the parser makes every target's last layer full.
ModelConfig SmallTarget(const std::string& pattern, int shared = 0) {
  ModelConfig target;
  target.hidden = 96;
  target.vocab = 1024;
  target.first_shared = static_cast<int>(pattern.size()) - shared;
  target.rope[kSliding] = {10000.0f, 1.0f, 1.0f};
  target.rope[kFull] = {1e6f, 0.25f, 1.0f};
  int owners[kNumKvGroups] = {0, 0};
  int last[kNumKvGroups] = {-1, -1};
  for (size_t i = 0; i < pattern.size(); ++i) {
    LayerDesc layer;
    layer.full = pattern[i] == 'F';
    layer.head_dim = layer.full ? 512 : 256;
    layer.num_q_heads = 4;
    layer.num_kv_heads = 2;
    layer.window = layer.full ? 0 : 24;
    layer.mlp_width = 128;
    if (static_cast<int>(i) < target.first_shared) {
      last[layer.group()] = static_cast<int>(i);
      ++owners[layer.group()];
    }
    layer.kv_owner = last[layer.group()];
    layer.kv_index = owners[layer.group()] - 1;
    target.layers.push_back(layer);
  }
  return target;
}

std::vector<int> Donors(const AssistantConfig& config) {
  std::vector<int> donors;
  for (const LayerDesc& layer : config.layers) donors.push_back(layer.kv_owner);
  return donors;
}

ModelConfig GoldenTarget(const std::string& variant) {
  return *ReadModelConfig(GoldenDir(variant) + "/target");
}

// ---- what is read ----

TEST(AssistantConfigTest, KeysOfBothLevelsAreRead) {
  json config = SmallConfig();
  config["use_ordered_embeddings"] = true;
  config["num_centroids"] = 64;
  config["centroid_intermediate_top_k"] = 8;
  config["text_config"]["final_logit_softcapping"] = 30.0;
  config["text_config"]["rms_norm_eps"] = 1e-5;
  const absl::StatusOr<AssistantConfig> parsed =
      Parse(config, R"({"num_assistant_tokens": 4, "suppress_tokens": [9, 8, 9]})");
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
  const absl::StatusOr<AssistantConfig> parsed = Parse(SmallConfig());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->draft_tokens, 0);
  EXPECT_THAT(parsed->suppressed_ids, IsEmpty());
  EXPECT_FALSE(parsed->clustered);
}

TEST(AssistantConfigTest, TheTextKeysMayStandAtTheTopLevel) {
  json flat = SmallConfig()["text_config"];
  flat["model_type"] = "gemma4_assistant";
  flat["backbone_hidden_size"] = 96;
  const absl::StatusOr<AssistantConfig> parsed = Parse(flat);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->layers[1].head_dim, 512);
}

TEST(AssistantConfigTest, PerLayerConfigGivesTheSizesOfFullLayers) {
  json config = SmallConfig();
  config["text_config"]["per_layer_config"] = {
      {"1", {{"head_dim", 512}, {"num_key_value_heads", 1}}}};
  const absl::StatusOr<AssistantConfig> parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->layers[0].num_kv_heads, 2);
  EXPECT_EQ(parsed->layers[1].num_kv_heads, 1);
  EXPECT_EQ(parsed->layers[1].head_dim, 512);
}

// Bug table S0-7: the unified architecture is the same one.
TEST(AssistantConfigTest, TheUnifiedNameDiffersInDefaultsAlone) {
  json plain = SmallConfig(), unified = SmallConfig();
  unified["model_type"] = "gemma4_unified_assistant";
  unified["text_config"]["model_type"] = "gemma4_unified_text";
  for (json* each : {&plain, &unified}) {
    each->erase("backbone_hidden_size");
    (*each)["text_config"].erase("sliding_window");
  }
  const absl::StatusOr<AssistantConfig> a = Parse(plain), b = Parse(unified);
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
    json config = SmallConfig();
    config["text_config"]["num_kv_shared_layers"] = shared;
    absl::StatusOr<AssistantConfig> parsed = Parse(config);
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
    json config = SmallConfig();
    config["text_config"]["layer_types"] = types;
    config["text_config"]["num_hidden_layers"] = types.size();
    config["text_config"]["num_kv_shared_layers"] = types.size();
    absl::StatusOr<AssistantConfig> parsed = Parse(config);
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

// ---- donors (T02) ----

TEST(DonorTest, IsTheLastOwnerOfTheTypeNotTheLastLayer) {
  const struct {
    const char* pattern;
    int shared;
    int sliding, full;
  } kCases[] = {
      {"SF", 0, 0, 1},       {"SSFSSF", 0, 4, 5}, {"SSSFS", 0, 4, 3},  // ends in sliding
      {"SSFSSFSF", 2, 4, 5},                                           // shared tail
      {"SFSSF", 2, 2, 1},                                              // owners end in sliding
      {"FSSSSSFS", 2, 5, 0},  // the only full owner is the first layer
  };
  for (const auto& each : kCases) {
    AssistantConfig config = *Parse(SmallConfig());
    const ModelConfig target = SmallTarget(each.pattern, each.shared);
    const absl::Status fit = FitToTarget(target, config);
    ASSERT_TRUE(fit.ok()) << each.pattern << ": " << fit;
    EXPECT_THAT(Donors(config), ElementsAre(each.sliding, each.full)) << each.pattern;
    for (const LayerDesc& layer : config.layers) {
      EXPECT_EQ(target.layers[layer.kv_owner].kv_owner, layer.kv_owner);  // it writes its own
      EXPECT_EQ(target.KvOwners(layer.group())[layer.kv_index], layer.kv_owner) << each.pattern;
    }
  }
}

TEST(DonorTest, ATypeThatNoOwnerHasIsNamed) {
  AssistantConfig config = *Parse(SmallConfig());
  absl::Status fit = FitToTarget(SmallTarget("SSS"), config);
  EXPECT_EQ(fit.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(fit.message()),
              AllOf(HasSubstr("full layers (layer_types)"), HasSubstr("no full layer"),
                    HasSubstr("writes keys and values"), Not(HasSubstr("sliding"))));
  fit = FitToTarget(SmallTarget("FSF", 2), config);  // the sliding layer only shares
  EXPECT_THAT(std::string(fit.message()), HasSubstr("no sliding layer"));
  // A type that the assistant does not have either is no matter.
  json sliding = SmallConfig();
  sliding["text_config"]["layer_types"] = {"sliding_attention", "sliding_attention"};
  config = *Parse(sliding);
  EXPECT_TRUE(FitToTarget(SmallTarget("SSS"), config).ok());
}

// ---- fitting ----

struct Misfit {
  const char* name;
  std::function<void(ModelConfig&)> change;  // of the target
  std::vector<std::string> expected;         // parts of the message
};

class MisfitTest : public ::testing::TestWithParam<Misfit> {};

TEST_P(MisfitTest, IsNamedWithBothValuesAndWhatToDo) {
  AssistantConfig config = *Parse(SmallConfig());
  ModelConfig target = SmallTarget("SF");
  ASSERT_TRUE(FitToTarget(target, config).ok());
  config = *Parse(SmallConfig());
  GetParam().change(target);
  const absl::Status fit = FitToTarget(target, config);
  EXPECT_EQ(fit.code(), absl::StatusCode::kFailedPrecondition);
  const std::string message(fit.message());
  for (const std::string& part : GetParam().expected) EXPECT_THAT(message, HasSubstr(part));
  EXPECT_THAT(message,
              AllOf(HasSubstr("--draft-model none"), Not(HasSubstr("; "))));  // this one alone
  EXPECT_THAT(Donors(config), ElementsAre(-1, -1));
}

const Misfit kMisfits[] = {
    {"Hidden",
     [](ModelConfig& t) { t.hidden = 128; },
     {"backbone_hidden_size is 96", "target's hidden_size is 128"}},
    {"Vocab", [](ModelConfig& t) { t.vocab = 1000; }, {"vocab_size is 1024", "target's is 1000"}},
    {"HeadDim",
     [](ModelConfig& t) { t.layers[1].head_dim = 256; },
     {"head_dim of its full layers is 512", "donor layer 1 has 256"}},
    {"KvHeads",
     [](ModelConfig& t) { t.layers[0].num_kv_heads = 1; },
     {"num_key_value_heads of its sliding layers is 2", "donor layer 0 has 1"}},
    {"Window",
     [](ModelConfig& t) { t.layers[0].window = 32; },
     {"sliding_window is 24", "target's is 32"}},
    {"Theta",
     [](ModelConfig& t) { t.rope[kFull].theta = 5e5f; },
     {"full_attention.rope_theta is 1e+06", "target's is 500000"}},
    {"PartialRotary",
     [](ModelConfig& t) { t.rope[kFull].partial_rotary_factor = 1.0f; },
     {"full_attention.partial_rotary_factor is 0.25", "target's is 1"}},
    {"RopeFactor",
     [](ModelConfig& t) { t.rope[kSliding].factor = 8.0f; },
     {"sliding_attention.factor is 1", "target's is 8"}},
};

INSTANTIATE_TEST_SUITE_P(Fits, MisfitTest, ::testing::ValuesIn(kMisfits),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(FitToTargetTest, QueryHeadsMustBeAMultipleOfTheDonorsHeads) {
  json odd = SmallConfig();
  odd["text_config"]["num_attention_heads"] = 6;
  odd["text_config"]["num_key_value_heads"] = 4;
  AssistantConfig config = *Parse(odd);
  ModelConfig target = SmallTarget("SF");
  for (LayerDesc& layer : target.layers) layer.num_kv_heads = 4;
  EXPECT_THAT(std::string(FitToTarget(target, config).message()),
              AllOf(HasSubstr("num_attention_heads is 6"), HasSubstr("multiple of the 4"),
                    HasSubstr("donor layer 0"), HasSubstr("donor layer 1")));
}

TEST(FitToTargetTest, EveryMismatchIsNamedAtOnceAndEachOnce) {
  json wide = SmallConfig();
  wide["text_config"]["num_hidden_layers"] = 3;
  wide["text_config"]["num_kv_shared_layers"] = 3;
  wide["text_config"]["layer_types"] = {"sliding_attention", "sliding_attention", "full_attention"};
  AssistantConfig config = *Parse(wide);
  ModelConfig target = SmallTarget("SF");
  target.hidden = 128;
  target.vocab = 1000;
  target.layers[0].window = 32;
  const std::string message(FitToTarget(target, config).message());
  EXPECT_THAT(message, AllOf(HasSubstr("backbone_hidden_size"), HasSubstr("vocab_size"),
                             HasSubstr("sliding_window")));
  // Two sliding layers read the same donor; one sentence says it.
  EXPECT_EQ(message.find("sliding_window"), message.rfind("sliding_window")) << message;
}

TEST(FitToTargetTest, TokensThatTheTargetNeverEmitsAreNeverProposed) {
  AssistantConfig config = *Parse(SmallConfig(), R"({"suppress_tokens": [9, 8]})");
  ModelConfig target = SmallTarget("SF");
  target.generation.suppressed_ids = {1000, 8, 3};
  ASSERT_TRUE(FitToTarget(target, config).ok());
  EXPECT_THAT(config.suppressed_ids, ElementsAre(3, 8, 9, 1000));
  // Fitting once more changes nothing.
  ASSERT_TRUE(FitToTarget(target, config).ok());
  EXPECT_THAT(config.suppressed_ids, ElementsAre(3, 8, 9, 1000));
}

TEST(FitToTargetTest, GoldenAssistantsFitTheirOwnTargetAndNoOther) {
  for (const char* assistant : kVariants) {
    for (const char* target : kVariants) {
      absl::StatusOr<AssistantConfig> config =
          ReadAssistantConfig(GoldenDir(assistant) + "/assistant");
      ASSERT_TRUE(config.ok()) << config.status();
      EXPECT_EQ(config->draft_tokens, 4);
      const ModelConfig model = GoldenTarget(target);
      const absl::Status fit = FitToTarget(model, *config);
      if (assistant == target) {
        EXPECT_TRUE(fit.ok()) << assistant << ": " << fit;
        EXPECT_THAT(config->suppressed_ids,
                    UnorderedElementsAreArray(model.generation.suppressed_ids));
        continue;
      }
      const std::string message(fit.message());
      const auto names = [&](const std::string& field, int ours, int theirs) {
        EXPECT_EQ(message.find(field + " is " + std::to_string(ours)) != std::string::npos,
                  ours != theirs)
            << assistant << " at " << target << ": " << message;
      };
      EXPECT_EQ(fit.code(), absl::StatusCode::kFailedPrecondition) << assistant << " " << target;
      names("backbone_hidden_size", config->backbone_hidden, model.hidden);
      names("vocab_size", config->vocab, model.vocab);
      names("sliding_window", config->layers[0].window, model.sliding_window);
      names("num_key_value_heads of its sliding layers", config->layers[0].num_kv_heads,
            model.layers[0].num_kv_heads);
      names("num_key_value_heads of its full layers", config->layers[3].num_kv_heads,
            model.layers[model.num_layers() - 1].num_kv_heads);
    }
  }
}

TEST(FitToTargetTest, GoldenDonors) {
  const std::map<std::string, std::vector<int>> kDonors = {{"e2b-like", {4, 4, 4, 3}},
                                                           {"e4b-like", {4, 4, 4, 5}},
                                                           {"12b-like", {4, 4, 4, 5}},
                                                           {"26b-like", {4, 4, 4, 5}},
                                                           {"31b-like", {4, 4, 4, 5}}};
  for (const auto& [variant, donors] : kDonors) {
    AssistantConfig config = *ReadAssistantConfig(GoldenDir(variant) + "/assistant");
    ASSERT_TRUE(FitToTarget(GoldenTarget(variant), config).ok());
    EXPECT_EQ(Donors(config), donors) << variant;
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
  json config = SmallConfig();
  json text = config["text_config"];
  GetParam().change(config, text);
  if (config.contains("text_config") && config["text_config"].is_object()) {
    config["text_config"] = text;
  }
  const absl::StatusOr<AssistantConfig> parsed = Parse(config);
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
  json config = SmallConfig();
  config["num_centroids"] = 2000;
  config["centroid_intermediate_top_k"] = 4000;
  const absl::StatusOr<AssistantConfig> parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->num_clusters, 0);
  EXPECT_EQ(parsed->cluster_rows(), 0);
}

TEST(AssistantConfigTest, ABadGenerationConfigIsNamed) {
  const auto refusal = [](const std::string& generation) {
    return std::string(Parse(SmallConfig(), generation).status().message());
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
