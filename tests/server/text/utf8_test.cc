#include "server/text/utf8.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace tandem::server {
namespace {

// The definition, in the long form: what the bytes decode to must need exactly that many bytes.
bool IsOneCharacter(const std::string& bytes) {
  const auto lead = static_cast<unsigned char>(bytes[0]);
  const size_t length = lead < 0x80 ? 1 : lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : 4;
  if ((lead >= 0x80 && lead < 0xC0) || lead >= 0xF8 || bytes.size() != length) return false;
  for (size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(bytes[i]) & 0xC0) != 0x80) return false;
  }
  const char32_t c = DecodeCodePoint(bytes.data(), static_cast<int>(length));
  const char32_t first[] = {0, 0, 0x80, 0x800, 0x10000};
  return c >= first[length] && c <= 0x10FFFF && !(c >= 0xD800 && c < 0xE000);
}

TEST(Utf8Test, ExactlyTheWellFormedSequencesAreCharacters) {
  // Given every lead byte with second, third and fourth bytes at the edges of their ranges.
  const std::vector<int> edges = {0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF};
  int characters = 0;
  for (int lead = 0; lead < 256; ++lead) {
    for (const int second : edges) {
      for (const int third : edges) {
        for (const int fourth : edges) {
          const std::string bytes = {static_cast<char>(lead), static_cast<char>(second),
                                     static_cast<char>(third), static_cast<char>(fourth)};
          int expected = 0;
          for (int n = 1; n <= 4; ++n) {
            if (IsOneCharacter(bytes.substr(0, n))) expected = n;
          }
          // When the front is classified.
          const Utf8Prefix front = ClassifyUtf8(bytes);
          // Then it is a character of the length the definition gives, or none.
          EXPECT_EQ(front.length, expected) << lead << " " << second << " " << third;
          EXPECT_EQ(front.state, expected > 0 ? Utf8State::kComplete : Utf8State::kInvalid);
          characters += expected > 0;
        }
      }
    }
  }
  EXPECT_GT(characters, 128 * 1000);
}

TEST(Utf8Test, AStartIsIncompleteOnlyWhileSomeContinuationCanFinishIt) {
  EXPECT_EQ(ClassifyUtf8("\xC3").state, Utf8State::kIncomplete);
  EXPECT_EQ(ClassifyUtf8("\xE2\x82").state, Utf8State::kIncomplete);
  EXPECT_EQ(ClassifyUtf8("\xF0\x9F\x9A").state, Utf8State::kIncomplete);
  EXPECT_EQ(ClassifyUtf8("\xF4\x8F").state, Utf8State::kIncomplete);
  EXPECT_EQ(ClassifyUtf8("\xC0").state, Utf8State::kInvalid);      // overlong
  EXPECT_EQ(ClassifyUtf8("\xE0\x80").state, Utf8State::kInvalid);  // overlong
  EXPECT_EQ(ClassifyUtf8("\xED\xA0").state, Utf8State::kInvalid);  // surrogate
  EXPECT_EQ(ClassifyUtf8("\xF4\x90").state, Utf8State::kInvalid);  // above U+10FFFF
  EXPECT_EQ(ClassifyUtf8("\x80").state, Utf8State::kInvalid);
  EXPECT_EQ(ClassifyUtf8("\xE2\x41").state, Utf8State::kInvalid);
}

TEST(Utf8Test, CodePointsAreDecoded) {
  EXPECT_EQ(DecodeCodePoint("A", 1), U'A');
  EXPECT_EQ(DecodeCodePoint("é", 2), U'é');
  EXPECT_EQ(DecodeCodePoint("▁", 3), char32_t{0x2581});
  EXPECT_EQ(DecodeCodePoint("🚀", 4), char32_t{0x1F680});
}

TEST(Utf8Test, EveryStrayByteBecomesOneReplacementCharacter) {
  EXPECT_EQ(SanitizeUtf8("aé🚀"), "aé🚀");
  EXPECT_EQ(SanitizeUtf8("a\xFFz"), "a\uFFFDz");
  EXPECT_EQ(SanitizeUtf8("\xE2\x82z"), "\uFFFD\uFFFDz");
  EXPECT_EQ(SanitizeUtf8("\xC3"), "\uFFFD");
  EXPECT_FALSE(IsValidUtf8("a\xFFz"));
  EXPECT_FALSE(IsValidUtf8("z\xE2\x82"));
  EXPECT_TRUE(IsValidUtf8("aé🚀"));
  EXPECT_TRUE(IsValidUtf8(""));
}

TEST(Utf8Test, QuotedTextIsShortEscapedAndValid) {
  EXPECT_EQ(Quoted("a▁\n\"b"), "\"a▁\\n\\\"b\"");
  EXPECT_EQ(Quoted(std::string(500, 'x')), '"' + std::string(80, 'x') + "...\"");
  // A cut through a character, or bytes that are none, leave valid text.
  EXPECT_TRUE(IsValidUtf8(Quoted("x" + std::string(100, '\xFF'))));
  EXPECT_EQ(Quoted(std::string(79, 'x') + "é"), '"' + std::string(79, 'x') + "\uFFFD...\"");
}

}  // namespace
}  // namespace tandem::server
