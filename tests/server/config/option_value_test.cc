#include "server/config/option_value.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace tandem::server {
namespace {

using ::testing::HasSubstr;

TEST(MemoryAmountTest, UnitsSharesAndAutoAreRead) {
  EXPECT_EQ(ParseMemoryAmount("4GiB")->bytes, uint64_t{4} << 30);
  EXPECT_EQ(ParseMemoryAmount("4g")->bytes, uint64_t{4} << 30);
  EXPECT_EQ(ParseMemoryAmount("4GB")->bytes, 4'000'000'000u);
  EXPECT_EQ(ParseMemoryAmount("1.5MiB")->bytes, 1572864u);
  EXPECT_EQ(ParseMemoryAmount("2097152")->bytes, 2097152u);
  EXPECT_DOUBLE_EQ(ParseMemoryAmount("60%")->share, 0.6);
  EXPECT_TRUE(ParseMemoryAmount("auto")->automatic());
}

TEST(MemoryAmountTest, WhatIsNoAmountIsRefused) {
  for (const char* text :
       {"", "GiB", "4 GiB", "4GiBs", "-1GiB", "0%", "101%", "4", "nan", "inf", "1e300GiB", "4%%"}) {
    EXPECT_FALSE(ParseMemoryAmount(text).ok()) << text;
  }
}

TEST(AddressTest, HostsNamesAndBracketedIpv6AreAccepted) {
  for (const char* text : {"0.0.0.0:50051", "localhost:0", "[::]:65535", "[fe80::1]:8080"}) {
    EXPECT_TRUE(CheckAddress(text).ok()) << text << ": " << CheckAddress(text);
  }
}

TEST(AddressTest, AMissingPartAndABadPortAreNamed) {
  EXPECT_THAT(CheckAddress("50051").message(), HasSubstr("HOST:PORT"));
  EXPECT_THAT(CheckAddress(":50051").message(), HasSubstr("host is missing"));
  EXPECT_THAT(CheckAddress("::1:50051").message(), HasSubstr("brackets"));
  EXPECT_THAT(CheckAddress("localhost:").message(), HasSubstr("0 to 65535"));
  EXPECT_THAT(CheckAddress("localhost:65536").message(), HasSubstr("0 to 65535"));
  EXPECT_THAT(CheckAddress("localhost:80x").message(), HasSubstr("0 to 65535"));
}

TEST(OptionTableTest, EveryDefaultIsAValueThatTheOptionAccepts) {
  for (const OptionSpec& option : Options()) {
    if (IsSwitch(option)) continue;
    const std::string text = ValueText(option, Settings{});
    if (text.empty()) {
      EXPECT_FALSE(option.unset.empty()) << option.name << " does not say what no value means";
      continue;
    }
    Settings settings;
    const std::vector<std::string> values =
        IsList(option) ? absl::StrSplit(text, ',') : std::vector<std::string>{text};
    EXPECT_TRUE(StoreValue(option, values, option.name, settings).ok()) << option.name;
  }
}

TEST(OptionTableTest, BothEndsOfARangeAreInsideAndWhatLiesBeyondIsNot) {
  for (const OptionSpec& option : Options()) {
    if (!IsNumber(option) || !option.choices.empty() || (option.min == 0 && option.max == 0)) {
      continue;
    }
    const auto accepts = [&](double value) {
      Settings settings;
      std::vector<std::string> values = {absl::StrFormat("%.15g", value)};
      return StoreValue(option, values, option.name, settings).ok();
    };
    EXPECT_TRUE(accepts(option.min)) << option.name;
    EXPECT_TRUE(accepts(option.max)) << option.name;
    EXPECT_FALSE(accepts(option.min - 1)) << option.name;
    EXPECT_FALSE(accepts(option.max + 1)) << option.name;
  }
}

TEST(OptionTableTest, NoNameAndNoLetterOccursTwiceInAVerb) {
  for (const VerbSpec& verb : Verbs()) {
    std::set<std::string_view> names;
    std::set<char> letters;
    for (const OptionSpec& option : Options()) {
      if (!Takes(option, verb.verb)) continue;
      EXPECT_TRUE(names.insert(option.name).second) << verb.name << " " << option.name;
      if (option.letter != 0) {
        EXPECT_TRUE(letters.insert(option.letter).second) << verb.name << " -" << option.letter;
      }
    }
  }
}

TEST(OptionTableTest, TheThreeSpellingsFollowFromTheName) {
  const OptionSpec& option = *FindSetting("max-step-rows");
  EXPECT_EQ(FlagName(option), "--max-step-rows");
  EXPECT_EQ(EnvironmentName(option), "TANDEM_MAX_STEP_ROWS");
  EXPECT_EQ(TomlKey(option), "max_step_rows");
}

}  // namespace
}  // namespace tandem::server
