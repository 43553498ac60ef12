#include "server/config/help_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace tandem::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(HelpTest, EveryVerbFitsOneScreen) {
  for (const VerbSpec& verb : Verbs()) {
    const std::vector<std::string> lines = Lines(VerbHelp(verb.verb));
    EXPECT_LE(lines.size(), 50u) << verb.name;
    for (const std::string& line : lines) EXPECT_LE(line.size(), 100u) << verb.name << ": " << line;
  }
  EXPECT_LE(Lines(ProgramHelp()).size(), 40u);
}

TEST(HelpTest, EveryGroupOfTheLongHelpFitsOneScreen) {
  for (const VerbSpec& verb : Verbs()) {
    size_t group_lines = 0;
    for (const std::string& line : Lines(VerbHelpAll(verb.verb))) {
      EXPECT_LE(line.size(), 100u) << verb.name << ": " << line;
      group_lines = line.starts_with(" ") ? group_lines + 1 : 1;
      EXPECT_LE(group_lines, 30u) << verb.name << ": " << line;
    }
  }
}

TEST(HelpTest, EveryOptionIsShownWithItsDefaultAndItsVariable) {
  for (const VerbSpec& verb : Verbs()) {
    const std::string help = VerbHelpAll(verb.verb);
    for (const OptionSpec& option : Options()) {
      if (!Takes(option, verb.verb)) continue;
      EXPECT_THAT(help, HasSubstr(" " + FlagName(option))) << verb.name;
      if (!option.is_setting) continue;
      EXPECT_THAT(help, HasSubstr(EnvironmentName(option))) << verb.name;
    }
  }
  EXPECT_THAT(VerbHelp(Verb::kServe), HasSubstr("[16]"));
  EXPECT_THAT(VerbHelp(Verb::kServe), HasSubstr("TANDEM_MAX_SLOTS"));
}

TEST(HelpTest, OnlyVerbsWithSettingsSayWhereTheseComeFrom) {
  EXPECT_THAT(VerbHelp(Verb::kDoctor), HasSubstr("TOML file"));
  EXPECT_THAT(VerbHelp(Verb::kHealth), Not(HasSubstr("TOML file")));
  EXPECT_THAT(VerbHelp(Verb::kCompletions), HasSubstr("source <(tandem completions bash)"));
}

TEST(HelpTest, AFamilyListsItsMembers) {
  const std::string help = FamilyHelp("bench");
  EXPECT_THAT(help, HasSubstr("\n  model "));
  EXPECT_THAT(help, HasSubstr("\n  serve "));
  EXPECT_THAT(help, Not(HasSubstr("doctor")));
}

TEST(OptionsPageTest, ThePageInTheRepositoryIsWhatTheTableSays) {
  std::ifstream file(TANDEM_SOURCE_DIR "/server/config/OPTIONS.md");
  std::stringstream page;
  page << file.rdbuf();
  EXPECT_EQ(page.str(), OptionsPage()) << "run: tandem config --docs > server/config/OPTIONS.md";
}

TEST(SettingsTomlTest, TheDefaultsCanBeUncommented) {
  const auto no_file = [](const std::string&) { return absl::NotFoundError("none"); };
  const auto defaults = Resolve(std::vector<std::string>{"serve"}, {}, no_file);
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  std::string toml;
  for (const std::string& line : Lines(SettingsToml(*defaults))) {
    toml += (line.find(" = ") == std::string::npos ? line : line.substr(2)) + "\n";
  }
  const auto uncommented = Resolve(std::vector<std::string>{"serve", "--config", "x"}, {},
                                   [&](const std::string&) { return toml; });
  EXPECT_TRUE(uncommented.ok()) << uncommented.status() << "\n" << toml;
}

TEST(SettingsTomlTest, TheTextReadBackGivesTheSameSettings) {
  // Given settings with a string that needs quoting, a list, an amount and a number.
  const std::vector<std::string> words = {
      "serve", "--model",     "a \"b\"\\c\n", "--grpc-listen", "a:1", "--grpc-listen",
      "b:2",   "--kv-memory", "60%",          "--max-slots",   "7"};
  const auto no_file = [](const std::string&) { return absl::NotFoundError("none"); };
  const auto first = Resolve(words, {}, no_file);
  ASSERT_TRUE(first.ok()) << first.status();
  // When they are written as TOML and read back.
  const std::string toml = SettingsToml(*first);
  const auto second = Resolve(std::vector<std::string>{"serve", "--config", "x"}, {},
                              [&](const std::string&) { return toml; });
  // Then nothing has changed, and only what was given is there.
  ASSERT_TRUE(second.ok()) << second.status() << "\n" << toml;
  EXPECT_EQ(second->settings.model, first->settings.model);
  EXPECT_EQ(second->settings.grpc_listen, first->settings.grpc_listen);
  EXPECT_EQ(second->settings.kv_memory.share, first->settings.kv_memory.share);
  EXPECT_EQ(second->settings.max_slots, 7);
  EXPECT_EQ(second->given.size(), first->given.size() + 1);  // and --config
}

}  // namespace
}  // namespace tandem::server
