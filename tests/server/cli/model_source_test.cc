#include "server/cli/model_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

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

}  // namespace
}  // namespace tandem::server
