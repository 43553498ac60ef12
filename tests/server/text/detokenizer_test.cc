#include "server/text/detokenizer.h"

#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/text/utf8.h"
#include "test_tokenizers.h"

namespace tandem::server {
namespace {

using testing::ElementsAre;

// What a stream shows for each id, and at its end.
std::vector<std::string> Stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                                bool skip_special) {
  StreamDetokenizer stream(tokenizer, skip_special);
  std::vector<std::string> shown;
  for (const int32_t id : ids) shown.push_back(stream.Push(id));
  shown.push_back(stream.Finish());
  return shown;
}

std::string Joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += part;
  return text;
}

std::vector<int32_t> ByteTokens(const Tokenizer& tokenizer, std::string_view bytes) {
  std::vector<int32_t> ids;
  for (const char byte : bytes) {
    ids.push_back(tokenizer.vocabulary().ByteToken(static_cast<unsigned char>(byte)));
  }
  return ids;
}

TEST(StreamDetokenizerTest, ACharacterAppearsWithItsLastByte) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  std::vector<int32_t> ids = ByteTokens(tokenizer, "🚀é");
  ids.push_back(20);
  EXPECT_THAT(Stream(tokenizer, ids, false), ElementsAre("", "", "", "🚀", "", "é", " world", ""));
}

TEST(StreamDetokenizerTest, BytesThatCannotBecomeACharacterAreReplacedAtOnce) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  EXPECT_THAT(Stream(tokenizer, ByteTokens(tokenizer, "\xFF\xE2\x82\x41"), false),
              ElementsAre("\uFFFD", "", "", "\uFFFD\uFFFD\x41", ""));
  // A start cut off by another start: the second one still completes.
  EXPECT_THAT(Stream(tokenizer, ByteTokens(tokenizer, "\xE2\xC3\xA9"), false),
              ElementsAre("", "\uFFFD", "é", ""));
}

TEST(StreamDetokenizerTest, AnUnfinishedCharacterIsFlushedByTextAndByTheEnd) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  std::vector<int32_t> ids = ByteTokens(tokenizer, "\xF0\x9F");
  ids.push_back(15);
  ids.push_back(tokenizer.vocabulary().ByteToken(0xC3));
  EXPECT_THAT(Stream(tokenizer, ids, false),
              ElementsAre("", "", "\uFFFD\uFFFDhello", "", "\uFFFD"));
}

TEST(StreamDetokenizerTest, AHiddenTokenDoesNotSplitACharacter) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  const Vocabulary& vocab = tokenizer.vocabulary();
  const std::vector<int32_t> ids = {vocab.ByteToken(0xC3), 277, vocab.ByteToken(0xA9)};
  EXPECT_THAT(Stream(tokenizer, ids, /*skip_special=*/true), ElementsAre("", "", "é", ""));
  EXPECT_THAT(Stream(tokenizer, ids, /*skip_special=*/false),
              ElementsAre("", "\uFFFD<|turn>", "\uFFFD", ""));
}

TEST(StreamDetokenizerTest, IdsWithoutATokenAreSilent) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  const std::vector<int32_t> ids = {-1, 15, 279, 1 << 30, 20};
  EXPECT_EQ(Joined(Stream(tokenizer, ids, false)), "hello world");
  EXPECT_EQ(Decode(tokenizer, ids, false), "hello world");
}

TEST(StreamDetokenizerTest, ForTextTheStreamEqualsTheWhole) {
  std::mt19937 rng(8);
  for (const std::string& variant : kGoldenVariants) {
    const Tokenizer tokenizer = GoldenTokenizer(variant);
    for (int round = 0; round < 200; ++round) {
      const std::string text = RandomText(rng, 1 + round % 50) + "<|turn>" + RandomText(rng, 5);
      const std::vector<int32_t> ids = tokenizer.Encode(text, /*parse_special=*/true).ids;
      for (const bool skip_special : {true, false}) {
        ASSERT_EQ(Joined(Stream(tokenizer, ids, skip_special)),
                  Decode(tokenizer, ids, skip_special));
      }
    }
  }
}

TEST(StreamDetokenizerTest, RandomIdsShowWholeCharactersAndEveryByte) {
  std::mt19937 rng(9);
  const Tokenizer tokenizer = GoldenTokenizer("e2b-like");
  const Vocabulary& vocab = tokenizer.vocabulary();
  for (int round = 0; round < 2000; ++round) {
    // Given ids of which half are byte tokens, mostly broken runs.
    std::vector<int32_t> ids;
    std::string bytes;
    for (int i = 0; i < 20; ++i) {
      const auto byte = static_cast<unsigned char>("\xC3\xA9\xE2\x82\xF0\x9F\x9A\x80"[rng() % 8]);
      ids.push_back(rng() % 2 == 0 ? static_cast<int32_t>(rng() % vocab.size())
                                   : vocab.ByteToken(byte));
      bytes += vocab.Bytes(ids.back());
    }
    // When they are streamed.
    const std::vector<std::string> shown = Stream(tokenizer, ids, /*skip_special=*/false);
    // Then each piece is text, and together they are the tokens' bytes made valid. (Bytes that meet
    // across tokens of text form no character here: text starts and ends with whole ones.)
    for (const std::string& part : shown) ASSERT_TRUE(IsValidUtf8(part));
    ASSERT_EQ(Joined(shown), SanitizeUtf8(bytes));
  }
}

}  // namespace
}  // namespace tandem::server
