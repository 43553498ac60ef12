#include "server/text/tokenizer.h"

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/text/detokenizer.h"
#include "server/text/utf8.h"
#include "test_tokenizers.h"

namespace tandem::server {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<int32_t> Ids(const Tokenizer& tokenizer, std::string_view text,
                         bool parse_special = true) {
  return tokenizer.Encode(text, parse_special).ids;
}

TEST(TokenizerTest, TheSpecifiedTextsGiveTheSpecifiedIds) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  EXPECT_THAT(Ids(tokenizer, "hello"), ElementsAre(15));
  EXPECT_THAT(Ids(tokenizer, " hello"), ElementsAre(8, 15));
  EXPECT_THAT(Ids(tokenizer, "hello world"), ElementsAre(15, 20));
  EXPECT_THAT(Ids(tokenizer, "hello  world"), ElementsAre(15, 8, 20));
  EXPECT_THAT(Ids(tokenizer, "hello 🚀"), ElementsAre(15, 8, 21, 22, 23, 24));
  EXPECT_THAT(Ids(tokenizer, ""), IsEmpty());
}

TEST(TokenizerTest, EveryIdTellsItsPieceItsBytesAndItsKind) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  const Vocabulary& vocab = tokenizer.vocabulary();
  EXPECT_EQ(tokenizer.vocab_size(), 25 + 252 + 2);
  EXPECT_EQ(tokenizer.bos_id(), 2);
  EXPECT_EQ(vocab.Piece(20), "▁world");
  EXPECT_EQ(vocab.Bytes(20), " world");
  EXPECT_FALSE(vocab.IsByte(20));
  EXPECT_EQ(vocab.Piece(21), "<0xF0>");
  EXPECT_EQ(vocab.Bytes(21), "\xF0");
  EXPECT_TRUE(vocab.IsByte(21));
  EXPECT_EQ(vocab.ByteToken(0xF0), 21);
  EXPECT_EQ(vocab.Find("<|turn>"), 277);
  EXPECT_EQ(vocab.Find("absent"), std::nullopt);
  EXPECT_TRUE(tokenizer.IsSpecial(277));
  EXPECT_FALSE(tokenizer.IsSpecial(15));
  EXPECT_FALSE(tokenizer.IsSpecial(-1));
  EXPECT_FALSE(tokenizer.IsSpecial(279));
}

TEST(TokenizerTest, OnlyAnAddedTokenMarkedSpecialIsSpecial) {
  // Given a file whose last added token is not special.
  nlohmann::json file = SyntheticTokenizerJson();
  file["added_tokens"].back()["special"] = false;
  const auto tokenizer = Tokenizer::FromJson(file.dump(), "t.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  // When text with it is encoded and decoded, then it is recognised but not hidden.
  const std::vector<int32_t> ids = Ids(*tokenizer, "<|turn><|turn>>");
  EXPECT_THAT(ids, ElementsAre(277, 278));
  EXPECT_EQ(Decode(*tokenizer, ids, /*skip_special=*/true), "<|turn>>");
}

TEST(TokenizerTest, OnlySixCharactersSpellAByteToken) {
  TokenizerTables tables;
  tables.pieces = {"<bos>", "<0x41", "<0x4>", "<0x4142>", "<0xG0>", "<0x4a>", "▁"};
  for (int byte = 0; byte < 256; ++byte) {
    tables.pieces.push_back(absl::StrFormat("<0x%02X>", byte));
  }
  const auto tokenizer = Tokenizer::Create(tables, "t");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (int32_t id = 0; id < 5; ++id)
    EXPECT_EQ(tokenizer->vocabulary().Bytes(id), tables.pieces[id]);
  EXPECT_EQ(tokenizer->vocabulary().Bytes(5), "J");  // read in either case, as the reference does
  EXPECT_EQ(tokenizer->vocabulary().ByteToken(0x4A), 7 + 0x4A);
}

TEST(TokenizerTest, ATokenizerStillWorksAfterAMove) {
  Tokenizer first = SyntheticTokenizer();
  const Tokenizer second = std::move(first);
  EXPECT_EQ(second.vocabulary().Find("▁wor"), 18);
  EXPECT_THAT(Ids(second, "hello world"), ElementsAre(15, 20));
}

TEST(TokenizerTest, AddedTokensMatchLeftmostThenLongest) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  EXPECT_THAT(Ids(tokenizer, "<|turn>"), ElementsAre(277));
  EXPECT_THAT(Ids(tokenizer, "<|turn>>"), ElementsAre(278));
  EXPECT_THAT(Ids(tokenizer, "<|turn>>>").front(), 278);
  EXPECT_THAT(Ids(tokenizer, "hello<eos>hello<|turn>"), ElementsAre(15, 1, 15, 277));
  // A start that leads nowhere hides nothing behind it.
  EXPECT_THAT(Ids(tokenizer, "<|tu<|turn>").back(), 277);
  EXPECT_THAT(Ids(tokenizer, "<<eos>").back(), 1);
}

TEST(TokenizerTest, AddedTokensAreOrdinaryTextWhenNotParsed) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  const std::vector<int32_t> ids = Ids(tokenizer, "<|turn><eos>", /*parse_special=*/false);
  EXPECT_EQ(Decode(tokenizer, ids, /*skip_special=*/true), "<|turn><eos>");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 277) + std::count(ids.begin(), ids.end(), 1), 0);
}

TEST(TokenizerTest, APromptStartsWithOneBos) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  EXPECT_THAT(tokenizer.EncodePrompt("hello", true, false).ids, ElementsAre(2, 15));
  EXPECT_THAT(tokenizer.EncodePrompt("hello", false, false).ids, ElementsAre(15));
  EXPECT_THAT(tokenizer.EncodePrompt("", true, false).ids, ElementsAre(2));
  EXPECT_THAT(tokenizer.EncodePrompt("<bos>hello", true, true).ids, ElementsAre(2, 15));
  EXPECT_THAT(tokenizer.EncodePrompt("<bos>hello", false, true).ids, ElementsAre(2, 15));
  // Spelled by a user whose text is not parsed, it is text, and the real one stands before it.
  const std::vector<int32_t> ids = tokenizer.EncodePrompt("<bos>hello", true, false).ids;
  EXPECT_EQ(ids.front(), 2);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 2), 1);
  EXPECT_GT(ids.size(), 3u);
}

TEST(TokenizerTest, OffsetsPointAtTheStartOfEveryToken) {
  const Tokenizer tokenizer = SyntheticTokenizer();
  const Encoding encoding = tokenizer.EncodePrompt("hello world<eos> 🚀h", true, true);
  EXPECT_THAT(encoding.ids, ElementsAre(2, 15, 20, 1, 8, 21, 22, 23, 24, 4));
  EXPECT_THAT(encoding.byte_offsets, ElementsAre(0, 0, 5, 11, 16, 17, 18, 19, 20, 21));
}

TEST(TokenizerTest, TheBytesOfTheTokensAreTheTextFromTheirOffsetsOn) {
  std::mt19937 rng(3);
  for (const std::string& variant : kGoldenVariants) {
    const Tokenizer tokenizer = GoldenTokenizer(variant);
    for (int round = 0; round < 100; ++round) {
      // Given random text with added tokens in it.
      const std::string text = RandomText(rng, 20) + "<|turn>" + RandomText(rng, 5) + "<eos>the";
      // When it is encoded.
      const Encoding encoding = tokenizer.Encode(text, /*parse_special=*/true);
      // Then every token stands where its offset says, and they cover the text.
      ASSERT_EQ(encoding.ids.size(), encoding.byte_offsets.size());
      size_t at = 0;
      for (size_t i = 0; i < encoding.ids.size(); ++i) {
        const std::string_view bytes = tokenizer.vocabulary().Bytes(encoding.ids[i]);
        ASSERT_EQ(encoding.byte_offsets[i], at);
        ASSERT_EQ(text.substr(at, bytes.size()), bytes);
        at += bytes.size();
      }
      ASSERT_EQ(at, text.size());
    }
  }
}

TEST(TokenizerTest, InvalidUtf8CountsAsReplacementCharacters) {
  std::mt19937 rng(4);
  const Tokenizer tokenizer = GoldenTokenizer("e2b-like");
  for (int round = 0; round < 500; ++round) {
    std::string text = RandomText(rng, 8) + "<eos>";
    for (int i = 0; i < 4; ++i) text[rng() % text.size()] = static_cast<char>(rng());
    const std::string clean = SanitizeUtf8(text);
    ASSERT_EQ(Ids(tokenizer, text), Ids(tokenizer, clean));
    ASSERT_EQ(Decode(tokenizer, Ids(tokenizer, text), false), clean);
  }
}

TEST(TokenizerTest, DecodingUndoesEncoding) {
  std::mt19937 rng(5);
  for (const std::string& variant : kGoldenVariants) {
    const Tokenizer tokenizer = GoldenTokenizer(variant);
    for (int round = 0; round < 400; ++round) {
      const std::string text = RandomText(rng, 1 + round % 60);
      for (const bool parse_special : {true, false}) {
        ASSERT_EQ(Decode(tokenizer, Ids(tokenizer, text, parse_special), false), text);
      }
    }
  }
}

TEST(TokenizerTest, AMillionEqualCharactersAreEncoded) {
  const Tokenizer tokenizer = GoldenTokenizer("e2b-like");
  for (const char c : {'a', ' ', '\n', '<'}) {
    const std::string text(1000000, c);
    EXPECT_EQ(Decode(tokenizer, Ids(tokenizer, text), false), text);
  }
}

// Byte-pair encoding as its definition reads: find the pair with the lowest rank, the leftmost of
// equals; join it; repeat.
std::vector<std::string> ReferenceBpe(std::vector<std::string> symbols,
                                      const std::vector<MergeRule>& merges) {
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    ranks[{merges[rank].left, merges[rank].right}] = rank;
  }
  while (true) {
    size_t best_rank = std::numeric_limits<size_t>::max(), best = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = ranks.find({symbols[i], symbols[i + 1]});
      if (found != ranks.end() && found->second < best_rank) best_rank = found->second, best = i;
    }
    if (best_rank == std::numeric_limits<size_t>::max()) return symbols;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<int>(best) + 1);
  }
}

TEST(TokenizerTest, RandomMergesInAnyOrderApplyByRankThenFromTheLeft) {
  std::mt19937 rng(6);
  for (int round = 0; round < 300; ++round) {
    // Given a vocabulary of random strings over four letters, and all their splits, or some of
    // them, as merges in random order, a few of them twice.
    std::set<std::string> pieces = {"a", "b", "c", "▁"};
    for (int i = 0; i < 30; ++i) {
      const std::vector<std::string> known(pieces.begin(), pieces.end());
      pieces.insert(known[rng() % known.size()] + known[rng() % known.size()]);
    }
    TokenizerTables tables;
    for (const std::string& left : pieces) {
      for (const std::string& right : pieces) {
        if (pieces.contains(left + right) && rng() % 4 > 0) tables.merges.push_back({left, right});
      }
    }
    std::shuffle(tables.merges.begin(), tables.merges.end(), rng);
    for (int i = 0; i < 3; ++i) tables.merges.push_back(tables.merges[rng() % 5]);
    tables.pieces.assign(pieces.begin(), pieces.end());
    tables.pieces.push_back("<bos>");
    for (int byte = 0; byte < 256; ++byte) {
      tables.pieces.push_back(absl::StrFormat("<0x%02X>", byte));
    }
    const std::vector<MergeRule> merges = tables.merges;
    const auto tokenizer = Tokenizer::Create(std::move(tables), "random");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (int text_idx = 0; text_idx < 10; ++text_idx) {
      // When a random text is encoded.
      std::vector<std::string> symbols;
      std::string text;
      for (int i = 0; i < 1 + static_cast<int>(rng() % 40); ++i) {
        symbols.push_back(std::vector<std::string>{"a", "b", "c", "▁"}[rng() % 4]);
        text += symbols.back() == "▁" ? " " : symbols.back();
      }
      std::vector<std::string> got;
      for (const int32_t id : Ids(*tokenizer, text)) {
        got.emplace_back(tokenizer->vocabulary().Piece(id));
      }
      // Then the pieces are those of the definition.
      ASSERT_EQ(got, ReferenceBpe(symbols, merges)) << text;
    }
  }
}

}  // namespace
}  // namespace tandem::server
