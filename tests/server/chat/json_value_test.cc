#include "server/chat/json_value.h"

#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace tandem::server {
namespace {

using testing::HasSubstr;

TEST(JsonValueTest, FloatsPrintInShortestFormWithAPointOrAnExponent) {
  // As repr() of Python 3.11 prints them.
  const std::pair<double, const char*> kCases[] = {
      {0.0, "0.0"},
      {-0.0, "-0.0"},
      {1.0, "1.0"},
      {-2.5, "-2.5"},
      {100.0, "100.0"},
      {0.1 + 0.2, "0.30000000000000004"},
      {1e15, "1000000000000000.0"},
      {9007199254740993.0, "9007199254740992.0"},
      {1e16, "1e+16"},
      {1.25e16, "1.25e+16"},
      {123456789.125, "123456789.125"},
      {0.0001, "0.0001"},
      {0.00012, "0.00012"},
      {0.00001, "1e-05"},
      {-1.5e-7, "-1.5e-07"},
      {1.7976931348623157e308, "1.7976931348623157e+308"},
      {5e-324, "5e-324"},
  };
  for (const auto& [value, text] : kCases) EXPECT_EQ(PythonFloat(value), text);
}

TEST(JsonValueTest, MembersKeepTheirOrderAndRepeatedOnesTheirLastValue) {
  const absl::StatusOr<JsonValue> value =
      ParseJson(R"({"b": [1, "x"], "a": {"k": null}, "b": true, "c": 2.50, "a": -0})");
  ASSERT_TRUE(value.ok());
  ASSERT_EQ(value->members.size(), 3u);
  EXPECT_EQ(value->members[0].first, "b");
  EXPECT_TRUE(value->members[0].second.boolean);
  EXPECT_EQ(value->members[1].first, "a");
  EXPECT_EQ(value->members[1].second.text, "0");
  EXPECT_EQ(FindMember(*value, "c")->text, "2.5");
  EXPECT_EQ(FindMember(*value, "d"), nullptr);
  EXPECT_EQ(FindMember(value->members[0].second, "b"), nullptr);
}

TEST(JsonValueTest, WhatIsNotJsonIsRefusedWithItsPlace) {
  for (const char* text : {"", " ", "{", "{\"a\"}", "[1,]", "nul", "'a'", "1 2", "{\"a\":1}}",
                           "\"\\ud800\"", "\"\xFF\"", "NaN", "01", "\xEF\xBB\xBF"}) {
    const absl::Status status = ParseJson(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("is not valid JSON at byte")) << text;
  }
  EXPECT_THAT(std::string(ParseJson("-1e400").status().message()), HasSubstr("too large"));
}

TEST(JsonValueTest, DepthIsLimited) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(ParseJson(nested(kMaxJsonDepth)).ok());
  for (const int depth : {kMaxJsonDepth + 1, 1000000}) {
    EXPECT_THAT(std::string(ParseJson(nested(depth)).status().message()),
                HasSubstr("nested deeper than 64"));
  }
}

// `value` as JSON again.
nlohmann::json Reprinted(const JsonValue& value) {
  switch (value.kind) {
    case JsonValue::Kind::kNull:
      return nullptr;
    case JsonValue::Kind::kBool:
      return value.boolean;
    case JsonValue::Kind::kNumber:
      return nlohmann::json::parse(value.text);
    case JsonValue::Kind::kString:
      return value.text;
    case JsonValue::Kind::kArray: {
      nlohmann::json array = nlohmann::json::array();
      for (const JsonValue& item : value.items) array.push_back(Reprinted(item));
      return array;
    }
    case JsonValue::Kind::kObject: {
      nlohmann::json object = nlohmann::json::object();
      for (const auto& [key, member] : value.members) object[key] = Reprinted(member);
      return object;
    }
  }
  return {};
}

TEST(JsonValueTest, DamagedJsonIsReadAsTheLibraryReadsItOrRefused) {
  const std::string whole =
      R"({"a": [1, -2.5e3, true, null, "x\n\u00e9"], "b": {"c": {}, "d": [[], [0.1]]}, "e": ""})";
  std::mt19937 rng(3);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    // Given JSON with a few bytes changed, left out or doubled.
    std::string text = whole;
    for (int edit = static_cast<int>(rng() % 3); edit >= 0; --edit) {
      const size_t at = rng() % text.size();
      const char byte = R"([]{}",:01e.-tn\ )"[rng() % 17];
      if (rng() % 3 == 0) {
        text.erase(at, 1);
      } else if (rng() % 2 == 0) {
        text.insert(at, 1, byte);
      } else {
        text[at] = byte;
      }
    }
    const absl::StatusOr<JsonValue> value = ParseJson(text);
    const auto expected = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    // A number out of range is refused by both.
    ASSERT_EQ(value.ok(), !expected.is_discarded()) << text;
    if (!value.ok()) continue;
    ++accepted;
    ASSERT_EQ(Reprinted(*value), expected) << text;
  }
  EXPECT_GT(accepted, 500);
}

}  // namespace
}  // namespace tandem::server
