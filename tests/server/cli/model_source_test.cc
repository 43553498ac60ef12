#include "server/cli/model_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

namespace tandem::server {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class ModelSourceTest : public ::testing::Test {
 protected:
  ModelSourceTest() {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::path(::testing::TempDir()) / ("tandem_source_" + std::string(info->name()));
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  ~ModelSourceTest() override { fs::remove_all(root_); }

  void Touch(const std::string& path) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << "{}";
  }
  std::string Error(const std::string& model) {
    Settings settings;
    settings.model = model;
    return std::string(FindModel(settings).status().message());
  }

  fs::path root_;
};

TEST_F(ModelSourceTest, ABuiltProgramFindsTheDemoModelOfItsSourceTree) {
  Touch("src/models/demo/config.json");
  EXPECT_EQ(FindDemoModel(root_ / "src/build/release/bin/tandem"), root_ / "src/models/demo");
}

TEST_F(ModelSourceTest, AnInstalledProgramFindsItsOwnFirst) {
  Touch("prefix/share/tandem/models/demo/config.json");
  Touch("models/demo/config.json");
  EXPECT_EQ(FindDemoModel(root_ / "prefix/bin/tandem"), root_ / "prefix/share/tandem/models/demo");
}

TEST_F(ModelSourceTest, AFolderWithoutAConfigurationIsNoDemoModel) {
  fs::create_directories(root_ / "src/models/demo");
  EXPECT_NE(FindDemoModel(root_ / "src/build/bin/tandem"), root_ / "src/models/demo");
}

TEST_F(ModelSourceTest, DummyWeightsHaveAPublishedShapeAndNoDirectory) {
  Settings settings;
  settings.load_format = "dummy";
  settings.model_shape = "e2b";
  const auto source = FindModel(settings);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_TRUE(source->dummy());
  EXPECT_EQ(source->name, "dummy-e2b");
  EXPECT_EQ(source->config.num_layers(), 35);
}

TEST_F(ModelSourceTest, WhatIsWrongWithAPathIsSaid) {
  EXPECT_THAT(Error((root_ / "none").string()), HasSubstr("no such directory"));
  Touch("model.gguf");
  EXPECT_THAT(Error((root_ / "model.gguf").string()), HasSubstr("is a file"));
  EXPECT_THAT(Error(root_.string()), HasSubstr("no config.json"));
}

TEST_F(ModelSourceTest, ANameOfAModelHubIsAnsweredWithHowToFetchIt) {
  EXPECT_THAT(Error("google/gemma-4-E2B-it"),
              AllOf(HasSubstr("downloads nothing"), HasSubstr("google/gemma-4-E2B-it")));
  EXPECT_THAT(Error("./none/there"), Not(HasSubstr("downloads")));
}

// ---- assistants ----

const fs::path kGolden = fs::path(TANDEM_SOURCE_DIR) / "tests/golden";

// A model directory with its assistant inside, by links.
class AssistantSourceTest : public ModelSourceTest {
 protected:
  AssistantSourceTest() { Link(kGolden / "e2b-like/target", root_ / "model"); }

  void Link(const fs::path& from, const fs::path& to) {
    fs::create_directories(to);
    for (const fs::directory_entry& file : fs::directory_iterator(from)) {
      fs::create_symlink(file.path(), to / file.path().filename());
    }
  }
  void AddAssistant(const std::string& of = "e2b-like") {
    Link(kGolden / of / "assistant", root_ / "model/assistant");
  }
  Settings SettingsFor() {
    Settings settings;
    settings.model = (root_ / "model").string();
    return settings;
  }
  static std::string ErrorOf(const Settings& settings) {
    return std::string(FindModel(settings).status().message());
  }
};

TEST_F(AssistantSourceTest, AModelWithoutOneIsServedWithoutOne) {
  const auto source = FindModel(SettingsFor());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_FALSE(source->assistant.has_value());
  EXPECT_EQ(DefaultSpeculation(SettingsFor(), source->assistant).mode,
            scheduler::Speculation::Mode::kOff);
}

TEST_F(AssistantSourceTest, TheOneInsideTheModelIsFoundAndFitted) {
  AddAssistant();
  const auto source = FindModel(SettingsFor());
  ASSERT_TRUE(source.ok()) << source.status();
  ASSERT_TRUE(source->assistant.has_value());
  EXPECT_EQ(source->assistant->name, "model/assistant");
  EXPECT_EQ(source->assistant->config.num_layers(), 4);
  for (const engine::LayerDesc& layer : source->assistant->config.layers) {
    EXPECT_GE(layer.kv_owner, 0);
  }
  EXPECT_EQ(source->assistant->max_draft_tokens, 4);  // num_assistant_tokens
  EXPECT_EQ(DefaultSpeculation(SettingsFor(), source->assistant).max_draft_tokens, 4);
}

TEST_F(AssistantSourceTest, TheSettingsDecide) {
  AddAssistant();
  Settings none = SettingsFor();
  none.draft_model = "none";
  EXPECT_FALSE(FindModel(none)->assistant.has_value());
  Settings off = SettingsFor();
  off.spec_mode = "off";
  EXPECT_FALSE(FindModel(off)->assistant.has_value());
  Settings fixed = SettingsFor();
  fixed.spec_mode = "fixed";
  fixed.spec_max_draft = 7;
  const auto source = FindModel(fixed);
  ASSERT_TRUE(source.ok()) << source.status();
  const scheduler::Speculation speculation = DefaultSpeculation(fixed, source->assistant);
  EXPECT_EQ(speculation.mode, scheduler::Speculation::Mode::kFixed);
  EXPECT_EQ(speculation.max_draft_tokens, 7);
}

TEST_F(AssistantSourceTest, OneThatLiesElsewhereIsNamed) {
  Settings settings = SettingsFor();
  settings.draft_model = (kGolden / "e2b-like/assistant").string();
  const auto source = FindModel(settings);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->assistant->name, "e2b-like/assistant");
}

TEST_F(AssistantSourceTest, OneThatDoesNotFitIsAnErrorWithAWayOut) {
  AddAssistant("31b-like");
  EXPECT_EQ(FindModel(SettingsFor()).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(ErrorOf(SettingsFor()),
              AllOf(HasSubstr("model/assistant"), HasSubstr("--draft-model none")));
}

TEST_F(AssistantSourceTest, AnEmptyFolderOfThatNameIsNoSilence) {
  fs::create_directories(root_ / "model/assistant");
  EXPECT_THAT(ErrorOf(SettingsFor()),
              AllOf(HasSubstr("no config.json"), HasSubstr("--draft-model none")));
}

TEST_F(AssistantSourceTest, WhatIsWrongWithANamedDirectoryIsSaid) {
  Settings settings = SettingsFor();
  settings.draft_model = (root_ / "nowhere").string();
  EXPECT_THAT(ErrorOf(settings), AllOf(HasSubstr("--draft-model"), HasSubstr("no such directory"),
                                       HasSubstr("--draft-model none")));
  Touch("file");
  settings.draft_model = (root_ / "file").string();
  EXPECT_THAT(ErrorOf(settings), HasSubstr("is a file"));
  settings.draft_model = (root_ / "model").string();  // a model is no assistant
  EXPECT_THAT(ErrorOf(settings), AllOf(HasSubstr("model_type"), HasSubstr("--draft-model none")));
}

TEST_F(AssistantSourceTest, FixedGuessingNeedsOne) {
  Settings settings = SettingsFor();
  settings.spec_mode = "fixed";
  EXPECT_THAT(ErrorOf(settings), AllOf(HasSubstr("--spec-mode fixed"), HasSubstr("--draft-model")));
}

TEST_F(AssistantSourceTest, DummyWeightsGetThePublishedOne) {
  Settings settings;
  settings.load_format = "dummy";
  for (const auto& [shape, tokens] :
       {std::pair("e2b", 2), {"e4b", 3}, {"12b", 3}, {"26b", 3}, {"31b", 4}}) {
    settings.model_shape = shape;
    const auto source = FindModel(settings);
    ASSERT_TRUE(source.ok()) << source.status();
    ASSERT_TRUE(source->assistant.has_value()) << shape;
    EXPECT_TRUE(source->assistant->dummy());
    EXPECT_EQ(source->assistant->max_draft_tokens, tokens) << shape;
  }
}

}  // namespace
}  // namespace tandem::server
