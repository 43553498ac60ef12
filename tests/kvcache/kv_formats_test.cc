// Names, presets and protected layers of the KV formats.
#include "kvcache/kv_formats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <climits>
#include <set>
#include <string>
#include <vector>

namespace tandem::kvcache {
namespace {

using kernels::KvFormat;
using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr KvPair kQ8Pair = {KvFormat::kQ8, KvFormat::kQ8};
constexpr KvPair kTurbo4Pair = {KvFormat::kTurbo4, KvFormat::kTurbo4};

KvFormats Both(KvPair pair, int first = 0, int last = 0) { return {{pair, pair}, first, last}; }

TEST(KvFormatNameTest, EveryFormatHasTheNameOfTheSpecification) {
  const char* names[] = {"f32", "bf16", "f16", "q8", "turbo4", "turbo3", "turbo2"};
  for (int id = 0; id < kernels::kNumKvFormats; ++id) {
    EXPECT_EQ(KvFormatName(static_cast<KvFormat>(id)), names[id]);
    EXPECT_EQ(KvFormatOf(names[id]), static_cast<KvFormat>(id));
  }
  for (const char* name : {"", "Q8", "q8 ", "turbo", "turbo5", "fp16"}) {
    EXPECT_EQ(KvFormatOf(name), std::nullopt) << name;
  }
}

TEST(ParseKvPairTest, OneNameStandsForBothSides) {
  EXPECT_EQ(*ParseKvPair("turbo3"), (KvPair{KvFormat::kTurbo3, KvFormat::kTurbo3}));
  EXPECT_EQ(*ParseKvPair("q8/turbo4"), (KvPair{KvFormat::kQ8, KvFormat::kTurbo4}));
  EXPECT_EQ(*ParseKvPair("bf16/f32"), (KvPair{KvFormat::kBf16, KvFormat::kF32}));
}

TEST(ParseKvPairTest, RefusesWhatIsNoFormatAndSaysWhichThereAre) {
  const struct {
    std::string text;
    std::string named;
  } cases[] = {{"q4", "'q4'"},      {"q8/q4", "'q4'"},
               {"q4/q8", "'q4'"},   {"", "''"},
               {"q8/", "''"},       {"/q8", "''"},
               {"/", "''"},         {"q8/q8/q8", "'q8/q8'"},
               {"q8 /q8", "'q8 '"}, {"turbo4\\q8", "'turbo4\\q8'"}};
  for (const auto& c : cases) {
    const absl::StatusOr<KvPair> pair = ParseKvPair(c.text);
    ASSERT_FALSE(pair.ok()) << c.text;
    EXPECT_EQ(pair.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(pair.status().message()),
                AllOf(HasSubstr(c.named), HasSubstr("f32, bf16, f16, q8, turbo4, turbo3, turbo2")));
  }
}

TEST(PresetFormatsTest, AreThoseOfTheSpecification) {
  EXPECT_EQ(*PresetFormats("exact"), Both({KvFormat::kBf16, KvFormat::kBf16}));
  EXPECT_EQ(*PresetFormats("safe"), Both(kQ8Pair));
  EXPECT_EQ(*PresetFormats("balanced"), Both({KvFormat::kQ8, KvFormat::kTurbo4}, 0, 2));
  EXPECT_EQ(*PresetFormats("compact"), Both(kTurbo4Pair, 2, 2));
  EXPECT_EQ(*PresetFormats("max"), Both({KvFormat::kTurbo4, KvFormat::kTurbo3}, 2, 2));
  for (const char* name : {"", "extreme", "Safe", "q8"}) {
    EXPECT_EQ(PresetFormats(name), std::nullopt) << name;
  }
}

TEST(DefaultProtectionTest, GrowsWithTheRiskOfTheFormats) {
  const auto of = [](const char* sliding, const char* full) {
    return DefaultProtection({*ParseKvPair(sliding), *ParseKvPair(full)});
  };
  for (const char* none : {"f32", "bf16", "f16", "q8", "bf16/q8", "q8/f16"}) {
    EXPECT_EQ(of(none, none), (Protection{0, 0})) << none;
  }
  for (const char* last : {"turbo4", "q8/turbo4", "turbo4/q8", "q8/turbo3", "turbo4/turbo3"}) {
    EXPECT_EQ(of(last, "q8"), (Protection{0, 2})) << last;
    EXPECT_EQ(of("bf16", last), (Protection{0, 2})) << last;
  }
  for (const char* both : {"turbo3", "turbo3/q8", "q8/turbo2", "turbo2/bf16", "turbo2"}) {
    EXPECT_EQ(of(both, "q8"), (Protection{2, 2})) << both;
    EXPECT_EQ(of("turbo4", both), (Protection{2, 2})) << both;
  }
}

TEST(LayerFormatsTest, GroupsAndSidesHaveFormatsOfTheirOwn) {
  const KvFormats formats = {{KvPair{KvFormat::kQ8, KvFormat::kTurbo2}, kTurbo4Pair}};
  const absl::StatusOr<std::vector<KvPair>> pairs =
      LayerFormats(formats, std::vector<int>{0, 0, 1, 0});
  ASSERT_TRUE(pairs.ok()) << pairs.status();
  EXPECT_THAT(*pairs,
              ElementsAre(formats.groups[0], formats.groups[0], kTurbo4Pair, formats.groups[0]));
}

TEST(LayerFormatsTest, ProtectionCountsOverBothGroupsInModelOrder) {
  // Given the layers of E2B with KV of their own: 4 sliding and a full one, three times.
  std::vector<int> groups;
  for (int i = 0; i < 15; ++i) groups.push_back(i % 5 == 4 ? 1 : 0);
  const absl::StatusOr<std::vector<KvPair>> pairs = LayerFormats(Both(kTurbo4Pair, 0, 2), groups);
  ASSERT_TRUE(pairs.ok()) << pairs.status();
  // Then the last of each group, the drafter's donors, are protected.
  for (int i = 0; i < 15; ++i) EXPECT_EQ((*pairs)[i], i < 13 ? kTurbo4Pair : kQ8Pair) << i;
}

TEST(LayerFormatsTest, ASideThatIsStoredUnrotatedKeepsItsFormat) {
  for (const KvFormat plain : {KvFormat::kF32, KvFormat::kBf16, KvFormat::kF16}) {
    const absl::StatusOr<std::vector<KvPair>> pairs =
        LayerFormats(Both({plain, KvFormat::kTurbo3}, 1, 0), std::vector<int>{0, 1});
    ASSERT_TRUE(pairs.ok()) << pairs.status();
    EXPECT_EQ((*pairs)[0], (KvPair{plain, KvFormat::kQ8}));
    EXPECT_EQ((*pairs)[1], (KvPair{plain, KvFormat::kTurbo3}));
  }
}

TEST(LayerFormatsTest, AnotherFormatCanProtect) {
  KvFormats formats = Both(kQ8Pair, 0, 1);
  for (const KvFormat protection : {KvFormat::kBf16, KvFormat::kF16, KvFormat::kQ8}) {
    formats.protect_format = protection;
    const absl::StatusOr<std::vector<KvPair>> pairs = LayerFormats(formats, std::vector<int>{0, 1});
    ASSERT_TRUE(pairs.ok()) << pairs.status();
    EXPECT_THAT(*pairs, ElementsAre(kQ8Pair, KvPair{protection, protection}));
  }
  for (const KvFormat protection : {KvFormat::kF32, KvFormat::kTurbo4, KvFormat::kTurbo2}) {
    formats.protect_format = protection;
    EXPECT_THAT(std::string(LayerFormats(formats, std::vector<int>{0, 1}).status().message()),
                AllOf(HasSubstr(std::string(KvFormatName(protection))), HasSubstr("use bf16")));
  }
}

TEST(LayerFormatsTest, RefusesProtectionThatLeavesNoLayer) {
  const std::vector<int> groups = {0, 0, 0, 1};
  EXPECT_TRUE(LayerFormats(Both(kTurbo4Pair, 1, 2), groups).ok());
  EXPECT_TRUE(LayerFormats(Both(kTurbo4Pair), {}).ok());
  for (const auto& [first, last] :
       {std::pair{2, 2}, {4, 0}, {0, 4}, {0, 5}, {INT_MAX, INT_MAX}, {3, 2}}) {
    const absl::Status status = LayerFormats(Both(kTurbo4Pair, first, last), groups).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("first " + std::to_string(first)),
                      HasSubstr("last " + std::to_string(last)), HasSubstr("4 layers"),
                      HasSubstr("protect fewer")));
  }
  EXPECT_THAT(std::string(LayerFormats(Both(kQ8Pair, -1, 0), groups).status().message()),
              HasSubstr("first -1"));
  EXPECT_FALSE(LayerFormats(Both(kQ8Pair, 0, -1), groups).ok());
}

TEST(FormatsTextTest, ReadsAsItIs) {
  KvFormats formats = {{KvPair{KvFormat::kQ8, KvFormat::kTurbo4}, kQ8Pair}, 0, 2};
  EXPECT_EQ(FormatsText(formats), "sliding q8/turbo4, full q8/q8, first 0, last 2 as q8");
  EXPECT_EQ(FormatVector(formats, 32),
            "sliding q8/turbo4, full q8/q8, first 0, last 2 as q8, blocks of 32, numerics 1");
}

TEST(FormatsTextTest, DiffersWhenAnythingDoes) {
  std::set<std::string> texts;
  size_t inputs = 0;
  for (int k = 0; k < kernels::kNumKvFormats; ++k) {
    for (int v = 0; v < kernels::kNumKvFormats; ++v) {
      for (const int group : {0, 1}) {
        for (const int first : {1, 11}) {
          for (const int last : {1, 11}) {
            for (const KvFormat protection : {KvFormat::kBf16, KvFormat::kF16}) {
              KvFormats formats = Both(kQ8Pair, first, last);
              const KvPair pair = {static_cast<KvFormat>(k), static_cast<KvFormat>(v)};
              if (group == 1 && pair == kQ8Pair) continue;  // the same as for group 0
              formats.groups[group] = pair;
              formats.protect_format = protection;
              texts.insert(FormatsText(formats));
              ++inputs;
            }
          }
        }
      }
    }
  }
  EXPECT_EQ(texts.size(), inputs);
  EXPECT_NE(FormatVector({}, 16), FormatVector({}, 32));
}

}  // namespace
}  // namespace tandem::kvcache
