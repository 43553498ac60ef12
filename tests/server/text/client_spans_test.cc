// Control tokens in what a client wrote stay text (Tokenizer::EncodePrompt with client_spans).
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/text/detokenizer.h"
#include "server/text/tokenizer.h"
#include "test_tokenizers.h"

namespace tandem::server {
namespace {

using testing::ElementsAre;

// Ids of the synthetic tokenizer.
constexpr int32_t kEos = 1, kBos = 2, kHello = 15, kTurn = 277, kTurnTurn = 278;

std::vector<int32_t> Ids(const Tokenizer& tokenizer, std::string_view text,
                         std::vector<ByteSpan> spans, bool add_bos = false) {
  return tokenizer.EncodePrompt(text, add_bos, /*parse_special=*/true, spans).ids;
}

int Count(const std::vector<int32_t>& ids, int32_t id) {
  return static_cast<int>(std::count(ids.begin(), ids.end(), id));
}

TEST(ClientSpansTest, ATokenThatTouchesASpanIsText) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  const std::string text = "<eos><eos><eos>";
  // Given spans over the middle one: all of it, its first byte, its last byte.
  for (const ByteSpan span : {ByteSpan{5, 10}, ByteSpan{5, 6}, ByteSpan{9, 10}}) {
    const std::vector<int32_t> ids = Ids(tokenizer, text, {span});
    // Then only the others are recognised.
    EXPECT_EQ(Count(ids, kEos), 2);
    EXPECT_EQ(Decode(tokenizer, ids, /*skip_special=*/false), text);
  }
  EXPECT_THAT(Ids(tokenizer, text, {{5, 5}}), ElementsAre(kEos, kEos, kEos));
  EXPECT_EQ(Count(Ids(tokenizer, text, {{4, 6}, {14, 15}}), kEos), 0);
}

TEST(ClientSpansTest, AClientDoesNotMakeOneOfOurTokensLonger) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  EXPECT_THAT(Ids(tokenizer, "<|turn>>", {}), ElementsAre(kTurnTurn));
  const std::vector<int32_t> ids = Ids(tokenizer, "<|turn>>hello", {{7, 13}});
  EXPECT_EQ(ids.front(), kTurn);
  EXPECT_EQ(ids.back(), kHello);
}

TEST(ClientSpansTest, TextIsEncodedInOnePieceAcrossTheEdgesOfSpans) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  EXPECT_THAT(Ids(tokenizer, "hello", {{2, 4}}), ElementsAre(kHello));
  EXPECT_THAT(Ids(tokenizer, "<eos>hello<eos>", {{5, 8}}), ElementsAre(kEos, kHello, kEos));
}

TEST(ClientSpansTest, ABosThatAClientWroteDoesNotStandInForOurs) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  EXPECT_THAT(Ids(tokenizer, "<bos>hello", {{5, 10}}, /*add_bos=*/true), ElementsAre(kBos, kHello));
  const std::vector<int32_t> ids = Ids(tokenizer, "<bos>hello", {{0, 10}}, /*add_bos=*/true);
  EXPECT_EQ(ids.front(), kBos);
  EXPECT_EQ(Count(ids, kBos), 1);
  EXPECT_GT(ids.size(), 2u);
}

TEST(ClientSpansTest, SpansFollowTheTextWhenInvalidBytesAreReplaced) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  // Given a byte in front that becomes three, and a client's token behind it.
  const std::string text =
      "\xFF<eos>"
      "<eos>"
      "<eos>";
  const std::vector<int32_t> ids = Ids(tokenizer, text, {{6, 11}});
  EXPECT_EQ(Count(ids, kEos), 2);
  EXPECT_EQ(Decode(tokenizer, ids, false), "\uFFFD<eos><eos><eos>");
}

TEST(ClientSpansTest, TextWithoutTokensGivesTheSameIdsWithAnySpans) {
  std::mt19937 rng(7);
  for (const std::string& variant : kGoldenVariants) {
    const Tokenizer tokenizer = GoldenTokenizer(variant);
    for (int round = 0; round < 40; ++round) {
      // Given random text of clients between tokens of ours.
      std::string text;
      std::vector<ByteSpan> spans;
      for (int i = 0; i < 5; ++i) {
        text += i % 2 == 0 ? "<|turn>user\n" : "<turn|>\n";
        const size_t begin = text.size();
        text += RandomText(rng, static_cast<int>(rng() % 20));
        if (text.size() > begin) spans.push_back({.begin = begin, .end = text.size()});
      }
      // When encoded with and without the spans, then nothing differs, offsets included.
      const Encoding guarded = tokenizer.EncodePrompt(text, true, true, spans);
      const Encoding plain = tokenizer.EncodePrompt(text, true, true);
      ASSERT_EQ(guarded.ids, plain.ids);
      ASSERT_EQ(guarded.byte_offsets, plain.byte_offsets);
    }
  }
}

}  // namespace
}  // namespace tandem::server
