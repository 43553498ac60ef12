// Keys of prefix blocks: equal for equal prefixes, and for nothing else.
#include "kvcache/block_key.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "kvcache/kv_formats.h"

namespace tandem::kvcache {
namespace {

using namespace std::string_view_literals;

std::vector<BlockKey> Chain(std::string_view salt, std::string_view formats,
                            const std::vector<std::vector<int32_t>>& blocks) {
  std::vector<BlockKey> keys = {RootKey(salt, formats)};
  for (const std::vector<int32_t>& block : blocks) keys.push_back(ChildKey(keys.back(), block));
  return keys;
}

std::string Hex(const BlockKey& key) {
  std::string hex;
  for (const uint8_t byte : key) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  return hex;
}

TEST(BlockKeyTest, IsSha256OfTheLengthPrefixedParts) {
  // Given digests that hashlib came to, over the bytes that the header describes.
  const BlockKey root = RootKey("s", "q8");
  EXPECT_EQ(Hex(root), "c6ef4ac031558a836835c242d0accd17676f6b48ce35b3bc11bef697f5d0f96d");
  EXPECT_EQ(Hex(ChildKey(root, std::vector<int32_t>{1, 262143, -1})),
            "6bd1711c0d253aafe08f6d57a7d01d4e1f9f4cf6cefe79564d3c6868a4cd39e1");
}

TEST(BlockKeyTest, TheSamePrefixHasTheSameKeys) {
  EXPECT_EQ(Chain("a", "f", {{1, 2}, {3, 4}}), Chain("a", "f", {{1, 2}, {3, 4}}));
}

TEST(BlockKeyTest, AnyChangeChangesEveryKeyBehindIt) {
  const std::vector<BlockKey> key = Chain("salt", "formats", {{1, 2, 3, 4}, {5, 6, 7, 8}});
  const struct {
    const char* what;
    size_t from;  // the first key that differs
    std::vector<BlockKey> other;
  } cases[] = {
      {"salt", 0, Chain("Salt", "formats", {{1, 2, 3, 4}, {5, 6, 7, 8}})},
      {"no salt", 0, Chain("", "formats", {{1, 2, 3, 4}, {5, 6, 7, 8}})},
      {"formats", 0, Chain("salt", "formatt", {{1, 2, 3, 4}, {5, 6, 7, 8}})},
      {"a token of the first block", 1, Chain("salt", "formats", {{0, 2, 3, 4}, {5, 6, 7, 8}})},
      {"the order in it", 1, Chain("salt", "formats", {{2, 1, 3, 4}, {5, 6, 7, 8}})},
      {"the last token", 2, Chain("salt", "formats", {{1, 2, 3, 4}, {5, 6, 7, 9}})},
      {"the order of blocks", 1, Chain("salt", "formats", {{5, 6, 7, 8}, {1, 2, 3, 4}})},
      {"a high byte", 2, Chain("salt", "formats", {{1, 2, 3, 4}, {5, 6, 7, 8 + (1 << 24)}})},
      {"a sign", 2, Chain("salt", "formats", {{1, 2, 3, 4}, {5, 6, 7, -8}})},
  };
  for (const auto& c : cases) {
    for (size_t i = 0; i < key.size(); ++i) {
      EXPECT_EQ(key[i] == c.other[i], i < c.from) << c.what << ", key " << i;
    }
  }
}

TEST(BlockKeyTest, BoundariesBetweenPartsAreNotAmbiguous) {
  std::set<BlockKey> keys;
  size_t inputs = 0;
  const auto add = [&](const BlockKey& key) {
    keys.insert(key);
    ++inputs;
  };
  // Given salts and formats whose bytes read the same one after the other.
  add(RootKey("", ""));
  add(RootKey("ab", "c"));
  add(RootKey("a", "bc"));
  add(RootKey("abc", ""));
  add(RootKey("", "abc"));
  add(RootKey("a\0"sv, "bc"));
  add(RootKey("a", "\0bc"sv));
  // And a salt that imitates the bytes of another root's parts.
  add(RootKey("a\x02\0\0\0\0\0\0\0bc"sv, ""));
  // And blocks that hold the same tokens in other numbers, or nothing.
  const BlockKey root = RootKey("", "");
  add(ChildKey(root, {}));
  add(ChildKey(root, std::vector<int32_t>{0}));
  add(ChildKey(root, std::vector<int32_t>{0, 0}));
  add(ChildKey(ChildKey(root, std::vector<int32_t>{0}), std::vector<int32_t>{0}));
  // Then no two keys are equal.
  EXPECT_EQ(keys.size(), inputs);
}

TEST(BlockKeyTest, FormatsAndBlockSizesShareNothing) {
  // Given all that rows depend on: formats of each side and group, protection, block size.
  std::set<BlockKey> keys;
  size_t inputs = 0;
  for (const char* k : {"f32", "bf16", "f16", "q8", "turbo4", "turbo3", "turbo2"}) {
    for (const int group : {0, 1}) {
      for (const int first : {0, 1}) {
        for (const int block_tokens : {16, 32}) {
          KvFormats formats;
          formats.groups[group] = {*KvFormatOf(k), kernels::KvFormat::kBf16};
          formats.protect_first = first;
          keys.insert(RootKey("", FormatVector(formats, block_tokens)));
          ++inputs;
        }
      }
    }
  }
  EXPECT_EQ(keys.size(), inputs);
}

}  // namespace
}  // namespace tandem::kvcache
