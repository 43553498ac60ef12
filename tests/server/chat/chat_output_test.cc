#include "server/chat/chat_output.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/text/utf8.h"
#include "tests/server/text/test_tokenizers.h"

namespace tandem::server {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Channel = ChatPiece::Channel;

// The pieces in order, neighbours of one channel joined: "text", "(reasoning)", "name arguments!".
std::vector<std::string> Shown(const std::vector<ChatPiece>& pieces) {
  std::vector<std::string> shown;
  std::optional<Channel> last;
  for (const ChatPiece& piece : pieces) {
    const bool is_call = piece.channel == Channel::kToolCall;
    if (is_call) {
      shown.push_back(piece.call.name + " " + piece.call.arguments_json + "!");
    } else if (last == piece.channel) {
      shown.back() += piece.text;
    } else {
      shown.push_back(piece.text);
    }
    last = piece.channel;
    if (is_call) continue;
    EXPECT_FALSE(piece.text.empty());
  }
  // Marks for reasoning, once whole.
  size_t i = 0;
  last.reset();
  for (const ChatPiece& piece : pieces) {
    const bool joins = last == piece.channel && piece.channel != Channel::kToolCall;
    if (!joins && last.has_value()) ++i;
    if (!joins && piece.channel == Channel::kReasoning) shown[i] = "(" + shown[i] + ")";
    last = piece.channel;
  }
  return shown;
}

std::vector<ChatPiece> Pieces(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                              bool starts_in_reasoning, bool skip_special_tokens = true) {
  ChatOutput output(tokenizer, starts_in_reasoning, skip_special_tokens);
  std::vector<ChatPiece> pieces;
  for (const int32_t id : ids) {
    for (ChatPiece& piece : output.Push(id)) pieces.push_back(std::move(piece));
  }
  for (ChatPiece& piece : output.Finish()) pieces.push_back(std::move(piece));
  return pieces;
}

// An answer written as text, control tokens included.
std::vector<std::string> Answer(const std::string& text, bool starts_in_reasoning = false,
                                bool skip_special_tokens = true) {
  const std::vector<int32_t> ids = DemoTokenizer().Encode(text, /*parse_special=*/true).ids;
  return Shown(Pieces(DemoTokenizer(), ids, starts_in_reasoning, skip_special_tokens));
}

TEST(ChatOutputTest, AnAnswerIsContent) {
  EXPECT_THAT(Answer("Hello, world!\n"), ElementsAre("Hello, world!\n"));
  EXPECT_THAT(Answer(""), IsEmpty());
}

TEST(ChatOutputTest, AThoughtChannelIsReasoningWithoutItsName) {
  EXPECT_THAT(Answer("<|channel>thought\nLet me\nsee.\n<channel|>It is 4."),
              ElementsAre("(Let me\nsee.\n)", "It is 4."));
  EXPECT_THAT(Answer("a<|channel>thought\nb<channel|>c<|channel>other\nd"),
              ElementsAre("a", "(b)", "c", "(d)"));
}

TEST(ChatOutputTest, APromptMayEndInsideTheThought) {
  EXPECT_THAT(Answer("so\n<channel|>4", /*starts_in_reasoning=*/true), ElementsAre("(so\n)", "4"));
  EXPECT_THAT(Answer("cut off", true), ElementsAre("(cut off)"));
}

TEST(ChatOutputTest, EmptyAndStrayChannelsAreDropped) {
  EXPECT_THAT(Answer("<|channel>thought\n<channel|>4<channel|>"), ElementsAre("4"));
  EXPECT_THAT(Answer("<|channel><channel|>4"), ElementsAre("4"));
  EXPECT_THAT(Answer("<|channel>thought<channel|>4"), ElementsAre("4"));
  EXPECT_THAT(Answer("4<|channel>thought\n"), ElementsAre("4"));
  EXPECT_THAT(Answer("4<|channel>thou"), ElementsAre("4"));
}

TEST(ChatOutputTest, AChannelThatNeverGetsItsNameKeepsItsText) {
  EXPECT_THAT(Answer("<|channel>The answer is 4.<channel|>4"),
              ElementsAre("(The answer is 4.)", "4"));
  EXPECT_THAT(Answer("<|channel>The answer"), ElementsAre("(The answer)"));
}

TEST(ChatOutputTest, ToolCallsComeWhole) {
  EXPECT_THAT(Answer("<|tool_call>call:f{a:<|\"|>x,}<|\"|>,b:1}<tool_call|>"),
              ElementsAre("f {\"a\":\"x,}\",\"b\":1}!"));
  EXPECT_THAT(Answer("<|channel>thought\nhm<channel|>I ask.<|tool_call>call:f{}<tool_call|>"
                     "<|tool_call>call:g{}<tool_call|><|tool_response>"),
              ElementsAre("(hm)", "I ask.", "f {}!", "g {}!"));
}

TEST(ChatOutputTest, CallsThatAreNotUnderstoodAreContent) {
  EXPECT_THAT(Answer("a<|tool_call>f(<|\"|>x<|\"|>)<tool_call|>b"),
              ElementsAre("a<|tool_call>f(<|\"|>x<|\"|>)<tool_call|>b"));
  // Not closed: the answer was cut off.
  EXPECT_THAT(Answer("<|tool_call>call:f{a:<|\"|>x"), ElementsAre("<|tool_call>call:f{a:<|\"|>x"));
  EXPECT_THAT(Answer("<|tool_call>call:f{}"), ElementsAre("<|tool_call>call:f{}"));
  // A call inside a call.
  EXPECT_THAT(Answer("<|tool_call>call:f{<|tool_call>call:g{}<tool_call|>"),
              ElementsAre("<|tool_call>call:f{<|tool_call>call:g{}<tool_call|>"));
}

TEST(ChatOutputTest, AQuoteThatIsSpelledDoesNotEndAString) {
  // Given the characters of the quote token, and the byte that marks it inside, as text of a
  // string.
  const Tokenizer& tokenizer = DemoTokenizer();
  const auto encode = [&](std::string_view text, bool special) {
    return tokenizer.Encode(text, special).ids;
  };
  std::vector<int32_t> ids = encode("<|tool_call>call:f{a:<|\"|>", true);
  for (const int32_t id : encode("<|\"|>,b:", false)) ids.push_back(id);
  ids.push_back(tokenizer.vocabulary().ByteToken(0xFF));
  for (const int32_t id : encode("<|\"|>}<tool_call|>", true)) ids.push_back(id);
  EXPECT_THAT(Shown(Pieces(tokenizer, ids, false)),
              ElementsAre("f {\"a\":\"<|\\\"|>,b:\uFFFD\"}!"));
}

TEST(ChatOutputTest, OtherControlTokensHaveNoTextUnlessAskedFor) {
  const std::string text = "a<|tool>b<|\"|>c<turn|>d<|think|>e<tool_call|>f<|image|>g";
  EXPECT_THAT(Answer(text), ElementsAre("abcdefg"));
  EXPECT_THAT(Answer(text, false, /*skip_special_tokens=*/false), ElementsAre(text));
  EXPECT_THAT(Answer("<|channel>thought\na<|channel>b<|tool_call>c<channel|>d"),
              ElementsAre("(abc)", "d"));
}

TEST(ChatOutputTest, ControlTokensSpelledInCharactersAreText) {
  const Tokenizer& tokenizer = DemoTokenizer();
  const std::string text = "<|channel>thought\nx<channel|><|tool_call>call:f{}<tool_call|>";
  const std::vector<int32_t> ids = tokenizer.Encode(text, /*parse_special=*/false).ids;
  EXPECT_THAT(Shown(Pieces(tokenizer, ids, false)), ElementsAre(text));
}

TEST(ChatOutputTest, HalfACharacterEndsWithItsChannel) {
  const Tokenizer& tokenizer = DemoTokenizer();
  const ChatTokens tokens = FindChatTokens(tokenizer.vocabulary());
  const int32_t half = tokenizer.vocabulary().ByteToken(0xF0);
  EXPECT_THAT(Shown(Pieces(tokenizer, {half, tokens.channel_close, half}, true)),
              ElementsAre("(\uFFFD)", "\uFFFD"));
}

TEST(ChatOutputTest, AVocabularyWithoutTheTokensHasOnlyContent) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  std::vector<int32_t> ids = tokenizer.Encode("hello<eos> world<|turn>", true).ids;
  ids.push_back(-1);
  ids.push_back(tokenizer.vocab_size());
  EXPECT_THAT(Shown(Pieces(tokenizer, ids, false)), ElementsAre("hello world"));
}

TEST(ChatOutputTest, TokensAreFoundByTheirTextNotTheirId) {
  // Given a vocabulary with two of the tokens at its end.
  nlohmann::json json = SyntheticTokenizerJson();
  for (const char* piece : {"<|channel>", "<channel|>"}) {
    nlohmann::json token = json["added_tokens"].back();
    token["id"] = token["id"].get<int>() + 1;
    token["content"] = piece;
    json["added_tokens"].push_back(token);
  }
  const absl::StatusOr<Tokenizer> tokenizer = Tokenizer::FromJson(json.dump(), "test");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<int32_t> ids =
      tokenizer->Encode("<|channel>thought\nhello<channel|> world", true).ids;
  EXPECT_THAT(Shown(Pieces(*tokenizer, ids, false)), ElementsAre("(hello)", " world"));
  EXPECT_EQ(StopIds(FindChatTokens(tokenizer->vocabulary())).size(), 2u);  // <eos>, <|turn>
}

TEST(ChatOutputTest, RandomTokensLoseNothingButControlTokens) {
  const Tokenizer& tokenizer = DemoTokenizer();
  const ChatTokens tokens = FindChatTokens(tokenizer.vocabulary());
  const std::vector<int32_t> call = tokenizer.Encode("call:f{a:1}", false).ids;
  std::mt19937 rng(11);
  int calls = 0, thoughts = 0;
  for (int round = 0; round < 3000; ++round) {
    // Given an answer of random tokens, every third of them a control token.
    std::vector<int32_t> ids;
    for (int i = static_cast<int>(rng() % 40); i > 0; --i) {
      if (rng() % 3 == 0) {
        ids.push_back(tokens.all[rng() % tokens.all.size()]);
      } else if (rng() % 8 == 0) {
        ids.push_back(tokens.tool_call_open);
        ids.insert(ids.end(), call.begin(), call.end());
        ids.push_back(tokens.tool_call_close);
      } else {
        ids.push_back(static_cast<int32_t>(rng() % tokenizer.vocab_size()));
      }
    }
    const bool starts_in_reasoning = rng() % 2 == 0;
    const std::vector<ChatPiece> pieces = Pieces(tokenizer, ids, starts_in_reasoning);
    // Then all text is valid, all arguments are JSON, and nothing that was said is missing: outside
    // of channels and calls the plain text of the tokens comes back.
    bool plain = !starts_in_reasoning;
    for (const int32_t id : ids) {
      plain = plain && id != tokens.channel_open && id != tokens.tool_call_open;
    }
    std::string content;
    for (const ChatPiece& piece : pieces) {
      ASSERT_TRUE(IsValidUtf8(piece.text));
      calls += piece.channel == Channel::kToolCall;
      thoughts += piece.channel == Channel::kReasoning;
      if (piece.channel == Channel::kContent) content += piece.text;
      if (piece.channel == Channel::kToolCall) {
        ASSERT_TRUE(nlohmann::json::parse(piece.call.arguments_json, nullptr, false).is_object());
      }
    }
    const bool split = std::count(ids.begin(), ids.end(), tokens.channel_close) > 0;
    if (!plain || split) continue;  // a stray close ends half a character, which Decode joins
    StreamDetokenizer detokenizer(tokenizer, true);
    std::string expected;
    for (const int32_t id : ids) expected += detokenizer.Push(id);
    expected += detokenizer.Finish();
    ASSERT_EQ(content, expected);
  }
  EXPECT_GT(calls, 100);
  EXPECT_GT(thoughts, 100);
}

}  // namespace
}  // namespace tandem::server
