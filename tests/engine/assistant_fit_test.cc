// Whether an assistant fits a target, and which layers it then reads (T01, T02 of mtp.md 5.3).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/assistant_config.h"
#include "tests/engine/engine_rig.h"
#include "tests/engine/small_assistant.h"

namespace tandem::engine {
namespace {

using nlohmann::json;
using tandem::testing::Donors;
using tandem::testing::GoldenDir;
using tandem::testing::GoldenTarget;
using tandem::testing::kVariants;
using tandem::testing::ParseAssistant;
using tandem::testing::SmallAssistantConfig;
using tandem::testing::SmallTarget;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::UnorderedElementsAreArray;

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
    AssistantConfig config = *ParseAssistant(SmallAssistantConfig());
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
  AssistantConfig config = *ParseAssistant(SmallAssistantConfig());
  absl::Status fit = FitToTarget(SmallTarget("SSS"), config);
  EXPECT_EQ(fit.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(fit.message()),
              AllOf(HasSubstr("full layers (layer_types)"), HasSubstr("no full layer"),
                    HasSubstr("writes keys and values"), Not(HasSubstr("sliding"))));
  fit = FitToTarget(SmallTarget("FSF", 2), config);  // the sliding layer only shares
  EXPECT_THAT(std::string(fit.message()), HasSubstr("no sliding layer"));
  // A type that the assistant does not have either is no matter.
  json sliding = SmallAssistantConfig();
  sliding["text_config"]["layer_types"] = {"sliding_attention", "sliding_attention"};
  config = *ParseAssistant(sliding);
  EXPECT_TRUE(FitToTarget(SmallTarget("SSS"), config).ok());
}

struct Misfit {
  const char* name;
  std::function<void(ModelConfig&)> change;  // of the target
  std::vector<std::string> expected;         // parts of the message
};

class MisfitTest : public ::testing::TestWithParam<Misfit> {};

TEST_P(MisfitTest, IsNamedWithBothValuesAndWhatToDo) {
  AssistantConfig config = *ParseAssistant(SmallAssistantConfig());
  ModelConfig target = SmallTarget("SF");
  ASSERT_TRUE(FitToTarget(target, config).ok());
  config = *ParseAssistant(SmallAssistantConfig());
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
  json odd = SmallAssistantConfig();
  odd["text_config"]["num_attention_heads"] = 6;
  odd["text_config"]["num_key_value_heads"] = 4;
  AssistantConfig config = *ParseAssistant(odd);
  ModelConfig target = SmallTarget("SF");
  for (LayerDesc& layer : target.layers) layer.num_kv_heads = 4;
  EXPECT_THAT(std::string(FitToTarget(target, config).message()),
              AllOf(HasSubstr("num_attention_heads is 6"), HasSubstr("multiple of the 4"),
                    HasSubstr("donor layer 0"), HasSubstr("donor layer 1")));
}

TEST(FitToTargetTest, EveryMismatchIsNamedAtOnceAndEachOnce) {
  json wide = SmallAssistantConfig();
  wide["text_config"]["num_hidden_layers"] = 3;
  wide["text_config"]["num_kv_shared_layers"] = 3;
  wide["text_config"]["layer_types"] = {"sliding_attention", "sliding_attention", "full_attention"};
  AssistantConfig config = *ParseAssistant(wide);
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
  AssistantConfig config =
      *ParseAssistant(SmallAssistantConfig(), R"({"suppress_tokens": [9, 8]})");
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

}  // namespace
}  // namespace tandem::engine
