#include "server/config/bench_model_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/config/resolve.h"

namespace tandem::server {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<Invocation> ResolveBench(std::vector<std::string> words,
                                        const std::string& member = "model") {
  words.insert(words.begin(), {"bench", member});
  return Resolve(words, {}, [](const std::string&) { return absl::NotFoundError("none"); });
}

std::string Error(const std::vector<std::string>& words) {
  return std::string(ResolveBench(words).status().message());
}

TEST(CompareOptionTest, WhatMayDifferBetweenTwoRunsIsTaken) {
  const auto off = ResolveBench({"--compare", "spec-mode=off"});
  ASSERT_TRUE(off.ok()) << off.status();
  EXPECT_EQ(WithSetting(off->settings, off->settings.bench.compare)->spec_mode, "off");
  const auto four = ResolveBench({"--compare", "spec-max-draft=4", "--spec-max-draft", "2"});
  ASSERT_TRUE(four.ok()) << four.status();
  const Settings other = WithSetting(four->settings, four->settings.bench.compare).value();
  EXPECT_EQ(other.spec_max_draft, 4);
  EXPECT_EQ(other.spec_mode, "auto");
  EXPECT_EQ(four->settings.spec_max_draft, 2);
}

TEST(CompareOptionTest, AnyOtherKeyIsRefusedWithThoseThatArePossible) {
  for (const char* wrong : {"kv-type=f32", "threads=1", "spec-mode", "off", "=off", "model=x"}) {
    EXPECT_THAT(Error({"--compare", wrong}),
                AllOf(HasSubstr("--compare"), HasSubstr(wrong),
                      HasSubstr("spec-mode=auto|off|fixed and spec-max-draft=0..16")));
  }
}

TEST(CompareOptionTest, AValueOutsideItsRangeIsRefused) {
  EXPECT_THAT(Error({"--compare", "spec-mode=on"}), HasSubstr("auto, off or fixed"));
  EXPECT_THAT(Error({"--compare", "spec-max-draft=17"}), HasSubstr("16"));
  EXPECT_THAT(Error({"--compare", "spec-max-draft="}), HasSubstr("spec-max-draft"));
}

TEST(CompareOptionTest, SidesThatAreTheSameAreRefused) {
  EXPECT_THAT(Error({"--compare", "spec-mode=auto"}), HasSubstr("both sides would be the same"));
  EXPECT_THAT(Error({"--compare", "spec-max-draft=2", "--spec-mode", "off"}),
              HasSubstr("neither side would guess"));
}

TEST(CompareOptionTest, WhatDoesNotGoTogetherIsRefused) {
  EXPECT_THAT(Error({"--assume-acceptance", "0.8"}),
              HasSubstr("--assume-acceptance needs --compare"));
  EXPECT_THAT(Error({"--prompts", "f"}), HasSubstr("--prompts needs --compare"));
  EXPECT_THAT(Error({"--compare", "spec-mode=off", "-p", "64"}), HasSubstr("contradict"));
  EXPECT_THAT(Error({"--compare", "spec-mode=off", "-n", "64,32"}), HasSubstr("one value"));
}

TEST(ChancesTest, EveryPlaceOfADraftHasOne) {
  EXPECT_THAT(ParseChances("0.8,0.6,0").value(), ElementsAre(0.8, 0.6, 0));
  EXPECT_THAT(ParseChances("1").value(), ElementsAre(1));
}

TEST(ChancesTest, WhatIsNoChanceIsRefused) {
  for (const char* wrong : {"x", "0.8,", ",", "1.1", "-0.1", "nan", "0.8;0.6", "0.8, 0.6"}) {
    EXPECT_THAT(Error({"--compare", "spec-mode=off", "--assume-acceptance", wrong}),
                HasSubstr("0.8,0.6,0.4"))
        << wrong;
  }
  std::string many = "1";
  for (int i = 0; i < 16; ++i) many += ",1";
  EXPECT_THAT(Error({"--compare", "spec-mode=off", "--assume-acceptance", many}),
              HasSubstr("at most 16"));
}

TEST(BenchAcceptOptionsTest, AllOfThemArrive) {
  const auto invocation =
      ResolveBench({"-p", "f.jsonl", "-r", "30", "-n", "99", "-s", "4", "--temperature", "0.5",
                    "-o", "json", "--spec-mode", "fixed"},
                   "accept");
  ASSERT_TRUE(invocation.ok()) << invocation.status();
  const BenchAcceptArguments& accept = invocation->settings.bench_accept;
  EXPECT_EQ(accept.prompts, "f.jsonl");
  EXPECT_EQ(accept.requests, 30);
  EXPECT_EQ(accept.generate, 99);
  EXPECT_EQ(accept.streams, 4);
  EXPECT_EQ(accept.temperature, 0.5);
  EXPECT_EQ(accept.output, "json");
  EXPECT_EQ(invocation->settings.spec_mode, "fixed");
}

}  // namespace
}  // namespace tandem::server
