#include "server/chat/tool_call_parser.h"

#include <random>
#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/chat/json_value.h"
#include "server/chat/tool_format.h"

namespace tandem::server {
namespace {

// `text` with ~ for the quote token.
std::string Marked(std::string text) {
  std::replace(text.begin(), text.end(), '~', kQuoteMark);
  return text;
}

TEST(ToolCallParserTest, CallsBecomeJson) {
  const std::pair<const char*, const char*> kCases[] = {
      {"call:f{}", R"(f {})"},
      {"call:f{a:1}", R"(f {"a":1})"},
      {"call:get.x-y_Z9{city:~Paris, \"France\"\n\\~,days:3}",
       R"(get.x-y_Z9 {"city":"Paris, \"France\"\n\\","days":3})"},
      {"call:f{a:true,b:false,c:null,d:-1.50e+07,e:0,f:0.5}",
       R"(f {"a":true,"b":false,"c":null,"d":-1.50e+07,"e":0,"f":0.5})"},
      {"call:f{a:[],b:[1,[~x~],{}],c:{d:{e:~~}}}",
       R"(f {"a":[],"b":[1,["x"],{}],"c":{"d":{"e":""}}})"},
      {"call:f{~a:b,{}~:1,~~:2}", R"(f {"a:b,{}":1,"":2})"},
      {" call: f { a : [ 1 , 2 ] , two words : ~ x ~ } \n", R"(f {"a":[1,2],"two words":" x "})"},
      {"call:f{a:~}]:,{[~}", R"(f {"a":"}]:,{["})"},
      {"call:f{a:~<|\"|>~}", R"(f {"a":"<|\"|>"})"},
      {"call:f{\u00e9:~\u65e5\U0001F680\u2028~}", "f {\"\u00e9\":\"\u65e5\U0001F680\u2028\"}"},
  };
  for (const auto& [text, expected] : kCases) {
    const std::optional<ParsedToolCall> call = ParseToolCall(Marked(text));
    ASSERT_TRUE(call.has_value()) << text;
    EXPECT_EQ(call->name + " " + call->arguments_json, expected);
  }
}

TEST(ToolCallParserTest, AnythingElseIsNoCall) {
  for (const char* text : {"",
                           "f{}",
                           "call:",
                           "call:{}",
                           "call:f",
                           "call:f{",
                           "call:f}",
                           "call:f{}}",
                           "call:f{} x",
                           "call:f x{}",
                           "call:a/b{}",
                           "call:f[1]",
                           "call:f{a}",
                           "call:f{a:}",
                           "call:f{a:1,}",
                           "call:f{,a:1}",
                           "call:f{a:1 b:2}",
                           "call:f{a:1,,b:2}",
                           "call:f{:1}",
                           "call:f{a:~x}",
                           "call:f{a:x}",
                           "call:f{a:\"x\"}",
                           "call:f{a:01}",
                           "call:f{a:+1}",
                           "call:f{a:1.}",
                           "call:f{a:.5}",
                           "call:f{a:1e}",
                           "call:f{a:-}",
                           "call:f{a:NaN}",
                           "call:f{a:truex}",
                           "call:f{a:[1}",
                           "call:f{a:[1,]}",
                           "call:f{a:[,1]}",
                           "call:f{a:1,a:2}",
                           "call:f{b:{~c~:1,c:2}}",
                           "call:f{a~:1}",
                           "call:f{a:~x~~y~}",
                           "CALL:f{}"}) {
    EXPECT_FALSE(ParseToolCall(Marked(text)).has_value()) << text;
  }
  EXPECT_FALSE(ParseToolCall("call:" + std::string(65, 'f') + "{}").has_value());
}

TEST(ToolCallParserTest, DepthIsLimited) {
  const auto nested = [](int depth) {
    return "call:f{a:" + std::string(depth - 1, '[') + std::string(depth - 1, ']') + "}";
  };
  EXPECT_TRUE(ParseToolCall(nested(kMaxJsonDepth)).has_value());
  EXPECT_FALSE(ParseToolCall(nested(kMaxJsonDepth + 1)).has_value());
  EXPECT_FALSE(ParseToolCall(nested(1000000)).has_value());
}

nlohmann::json RandomValue(std::mt19937& rng, int depth) {
  switch (rng() % (depth > 0 ? 7 : 5)) {
    case 0:
      return nullptr;
    case 1:
      return rng() % 2 == 0;
    case 2:
      return static_cast<int>(rng() % 2000) - 1000;
    case 3:
      return static_cast<double>(rng() % 100000) / 64.0 - 300.0;
    case 4:
      return std::vector<std::string>{
          "", "a,b:{c}", "\"q\"", "\u00e9\n\t", "[1]", "null"}[rng() % 6];
    case 5: {
      nlohmann::json array = nlohmann::json::array();
      for (unsigned i = rng() % 4; i > 0; --i) array.push_back(RandomValue(rng, depth - 1));
      return array;
    }
    default: {
      nlohmann::json object = nlohmann::json::object();
      for (unsigned i = rng() % 4; i > 0; --i) {
        object[std::string(1, static_cast<char>('a' + rng() % 6)) + "_K"] =
            RandomValue(rng, depth - 1);
      }
      return object;
    }
  }
}

TEST(ToolCallParserTest, CallsThatAreRenderedAreReadBack) {
  std::mt19937 rng(5);
  for (int round = 0; round < 2000; ++round) {
    nlohmann::json arguments = nlohmann::json::object();
    for (unsigned i = rng() % 4; i > 0; --i) {
      arguments["key " + std::to_string(i)] = RandomValue(rng, 4);
    }
    // Given a call as a prompt shows it.
    SpanText text;
    AppendCall("tool", *ParseJson(arguments.dump()), text);
    std::string call = text.text();
    call = call.substr(12, call.size() - 24);  // without the tokens around it
    for (size_t at; (at = call.find("<|\"|>")) != std::string::npos;) {
      call.replace(at, 5, 1, kQuoteMark);
    }
    // When read, then the arguments are the same.
    const std::optional<ParsedToolCall> parsed = ParseToolCall(call);
    ASSERT_TRUE(parsed.has_value()) << text.text();
    ASSERT_EQ(nlohmann::json::parse(parsed->arguments_json), arguments);
  }
}

TEST(ToolCallParserTest, WhateverIsReadIsJson) {
  std::mt19937 rng(6);
  const std::string whole = Marked("call:f{a:~x~,b:[1.5e3,true,{c:null}],~d~:{},e:~\u00e9~}");
  int read = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = whole;
    for (int edit = static_cast<int>(rng() % 3); edit >= 0; --edit) {
      const size_t at = rng() % text.size();
      const char byte = "[]{},:01e.-~ a\\\"\n"[rng() % 17];
      if (rng() % 2 == 0) {
        text.erase(at, 1);
      } else {
        text.insert(at, 1, byte == '~' ? kQuoteMark : byte);
      }
    }
    const std::optional<ParsedToolCall> call = ParseToolCall(text);
    if (!call.has_value()) continue;
    ++read;
    const auto json = nlohmann::json::parse(call->arguments_json, nullptr, false);
    ASSERT_TRUE(json.is_object()) << call->arguments_json;
  }
  EXPECT_GT(read, 500);
}

}  // namespace
}  // namespace tandem::server
