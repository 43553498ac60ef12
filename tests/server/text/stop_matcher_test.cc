#include "server/text/stop_matcher.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/text/utf8.h"

namespace tandem::server {
namespace {

using testing::HasSubstr;

StopMatcher Matcher(std::vector<std::string> stops, bool include_stop = false) {
  auto matcher = StopMatcher::Create(std::move(stops), include_stop);
  EXPECT_TRUE(matcher.ok()) << matcher.status();
  return *std::move(matcher);
}

TEST(StopMatcherTest, TextBeforeTheStopIsShownAndTheStopIsNot) {
  StopMatcher matcher = Matcher({"END", "\n\n"});
  EXPECT_EQ(matcher.Push("one EN", true), "one ");
  EXPECT_EQ(matcher.Push("Ds, two ", true), "");
  EXPECT_EQ(matcher.matched(), 0);
  EXPECT_EQ(matcher.stop(*matcher.matched()), "END");
  EXPECT_EQ(matcher.Push("more", true), "");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcherTest, IncludeStopShowsTheStopAndNothingBehindIt) {
  StopMatcher matcher = Matcher({"END"}, /*include_stop=*/true);
  EXPECT_EQ(matcher.Push("one EN", true), "one ");
  EXPECT_EQ(matcher.Push("D two", true), "END");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcherTest, WhatMightBecomeAStopIsShownOnceItCannot) {
  StopMatcher matcher = Matcher({"abac"});
  EXPECT_EQ(matcher.Push("xaba", true), "x");
  EXPECT_EQ(matcher.Push("b", true), "ab");  // the end "ab" may still start one
  EXPECT_EQ(matcher.Push("y", true), "aby");
  EXPECT_EQ(matcher.Push("aba", true), "");
  EXPECT_EQ(matcher.Finish(), "aba");
  EXPECT_EQ(matcher.matched(), std::nullopt);
}

TEST(StopMatcherTest, TheMatchThatEndsFirstWinsThenTheOneThatStartsFirst) {
  StopMatcher early_end = Matcher({"abcdef", "cd"});
  EXPECT_EQ(early_end.Push("xabcdef", true), "xab");
  EXPECT_EQ(early_end.matched(), 1);
  StopMatcher same_end = Matcher({"d", "bcd", "cd"});
  EXPECT_EQ(same_end.Push("abcd", true), "a");
  EXPECT_EQ(same_end.matched(), 1);
}

TEST(StopMatcherTest, NoMatchEndsBeforeItMay) {
  StopMatcher matcher = Matcher({"stop", "pp"});
  EXPECT_EQ(matcher.Push("stop", false), "sto");  // "p" may start "pp"
  EXPECT_EQ(matcher.Push(" sto", false), "p ");
  EXPECT_EQ(matcher.Push("p", true), "");  // started early, ends late enough
  EXPECT_EQ(matcher.matched(), 0);
}

TEST(StopMatcherTest, WithoutStopsAllTextPasses) {
  StopMatcher matcher = Matcher({});
  EXPECT_EQ(matcher.Push("any", true), "any");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcherTest, StringsOutsideTheLimitsAreRefusedByName) {
  const auto problem_of = [](std::vector<std::string> stops) {
    const auto status = StopMatcher::Create(std::move(stops), false).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(problem_of(std::vector<std::string>(17, "x")), HasSubstr("stop has 17 strings"));
  EXPECT_THAT(problem_of({"a", ""}), HasSubstr("stop[1] is 0 bytes"));
  EXPECT_THAT(problem_of({std::string(257, 'x')}), HasSubstr("stop[0] is 257 bytes"));
  EXPECT_THAT(problem_of({"a", "b", "\xFF"}), HasSubstr("stop[2] is not valid UTF-8"));
  EXPECT_TRUE(StopMatcher::Create(std::vector<std::string>(16, std::string(256, 'x')), false).ok());
}

// The definition: looks at every end of the text so far.
struct Expectation {
  std::string shown;
  std::optional<size_t> stop_bytes;
};

Expectation Naive(const std::vector<std::string>& pushes, const std::vector<bool>& may_stop,
                  const std::vector<std::string>& stops, bool include_stop) {
  std::string text;
  for (size_t i = 0; i < pushes.size(); ++i) {
    for (const char byte : pushes[i]) {
      text.push_back(byte);
      size_t longest = 0;
      for (const std::string& stop : stops) {
        if (may_stop[i] && text.ends_with(stop)) longest = std::max(longest, stop.size());
      }
      if (longest > 0) {
        return {text.substr(0, text.size() - (include_stop ? 0 : longest)), longest};
      }
    }
  }
  size_t withheld = 0;
  for (const std::string& stop : stops) {
    for (size_t n = 1; n < stop.size() && n <= text.size(); ++n) {
      if (text.ends_with(stop.substr(0, n))) withheld = std::max(withheld, n);
    }
  }
  return {text.substr(0, text.size() - withheld), std::nullopt};
}

TEST(StopMatcherTest, RandomTextIsShownAsTheDefinitionSays) {
  std::mt19937 rng(10);
  int matches = 0;
  for (int round = 0; round < 4000; ++round) {
    // Given random stop strings and text over a small alphabet with characters of several lengths.
    const std::vector<std::string> alphabet = {"a", "b", "é", "è", "🚀"};
    const int letters = 2 + static_cast<int>(rng() % 4);
    const auto random_text = [&](int length) {
      std::string text;
      for (int i = 0; i < length; ++i) text += alphabet[rng() % letters];
      return text;
    };
    std::vector<std::string> stops(1 + rng() % 4);
    for (std::string& stop : stops) stop = random_text(1 + static_cast<int>(rng() % 7));
    const bool include_stop = rng() % 2 == 0;
    const size_t min_pushes = rng() % 8;
    StopMatcher matcher = Matcher(stops, include_stop);

    std::vector<std::string> pushes;
    std::vector<bool> may_stop;
    std::string shown;
    for (int i = 0; i < 20; ++i) {
      // When the next piece of text arrives.
      pushes.push_back(random_text(static_cast<int>(rng() % 4)));
      may_stop.push_back(pushes.size() > min_pushes);
      const std::string part = matcher.Push(pushes.back(), may_stop.back());
      shown += part;
      // Then exactly what the definition allows has been shown, in whole characters.
      const Expectation expected = Naive(pushes, may_stop, stops, include_stop);
      ASSERT_EQ(shown, expected.shown);
      ASSERT_TRUE(IsValidUtf8(part));
      ASSERT_EQ(matcher.matched().has_value(), expected.stop_bytes.has_value());
      if (expected.stop_bytes.has_value()) {
        ASSERT_EQ(matcher.stop(*matcher.matched()).size(), *expected.stop_bytes);
        ++matches;
        break;
      }
    }
  }
  EXPECT_GT(matches, 1000);
}

TEST(StopMatcherTest, LongTextThatAlmostMatchesPassesUnchanged) {
  // Given 16 stop strings of the greatest length that differ from the text in their last byte.
  std::vector<std::string> stops;
  for (int i = 0; i < kMaxStopStrings; ++i) {
    stops.push_back(std::string(kMaxStopStringBytes - 1, 'a') + static_cast<char>('b' + i));
  }
  StopMatcher matcher = Matcher(stops);
  const std::string text(200000, 'a');
  // When the text arrives byte by byte.
  std::string shown;
  for (const char byte : text) shown += matcher.Push(std::string(1, byte), true);
  // Then no more than one stop string is withheld, and in the end nothing is lost.
  EXPECT_EQ(shown.size(), text.size() - (kMaxStopStringBytes - 1));
  EXPECT_EQ(shown + matcher.Finish(), text);
}

}  // namespace
}  // namespace tandem::server
