#include "server/config/kv_setting.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/config/resolve.h"

namespace tandem::server {
namespace {

using kernels::KvFormat;
using kvcache::KvFormats;
using kvcache::KvPair;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

absl::StatusOr<Invocation> Serve(std::vector<std::string> words) {
  words.insert(words.begin(), "serve");
  return Resolve(words, {},
                 [](const std::string&) -> absl::StatusOr<std::string> { return std::string(); });
}

// KvText of what the flags come to.
std::string TextOf(const std::vector<std::string>& words) {
  const absl::StatusOr<Invocation> invocation = Serve(words);
  EXPECT_TRUE(invocation.ok()) << invocation.status();
  return invocation.ok() ? KvText(KvFormatsOf(invocation->settings)) : "";
}

std::string Error(const std::vector<std::string>& words) {
  const absl::StatusOr<Invocation> invocation = Serve(words);
  EXPECT_FALSE(invocation.ok()) << "accepted";
  return std::string(invocation.status().message());
}

TEST(KvSettingTest, AFormatAPairAndAPresetAreAllTypes) {
  EXPECT_EQ(TextOf({"--kv-type", "f16"}), "f16");
  EXPECT_EQ(TextOf({"--kv-type", "f32/bf16"}), "f32/bf16");
  EXPECT_EQ(TextOf({"--kv-type", "exact"}), "bf16");
  EXPECT_EQ(TextOf({"--kv-type", "safe"}), "q8");
  EXPECT_EQ(TextOf({"--kv-type", "balanced"}), "q8/turbo4, last 2 layers q8");
  EXPECT_EQ(TextOf({"--kv-type", "compact"}), "turbo4, first 2 and last 2 layers q8");
  EXPECT_EQ(TextOf({"--kv-type", "max"}), "turbo4/turbo3, first 2 and last 2 layers q8");
}

TEST(KvSettingTest, WithoutATypeItFollowsFromTheActivations) {
  EXPECT_EQ(TextOf({"--dtype", "f32"}), "f32");
  EXPECT_EQ(TextOf({"--dtype", "f32", "--kv-type", "q8"}), "q8");
  EXPECT_EQ(TextOf({}), "q8");
}

TEST(KvSettingTest, CoarseFormatsProtectTheLayersThatManyRead) {
  EXPECT_EQ(TextOf({"--kv-type", "turbo4"}), "turbo4, last 2 layers q8");
  EXPECT_EQ(TextOf({"--kv-type", "q8/turbo3"}), "q8/turbo3, last 2 layers q8");
  EXPECT_EQ(TextOf({"--kv-type", "turbo3/turbo4"}), "turbo3/turbo4, first 2 and last 2 layers q8");
  EXPECT_EQ(TextOf({"--kv-type", "q8/turbo2"}), "q8/turbo2, first 2 and last 2 layers q8");
  EXPECT_EQ(TextOf({"--kv-type-v", "turbo4"}), "q8/turbo4, last 2 layers q8");
  EXPECT_EQ(TextOf({"--kv-type", "safe", "--kv-type-k", "turbo3"}),
            "turbo3/q8, first 2 and last 2 layers q8");
  EXPECT_EQ(TextOf({"--kv-type", "bf16", "--kv-sliding-type", "turbo4"}),
            "bf16, sliding turbo4, last 2 layers q8");
}

TEST(KvSettingTest, AnOptionOfItsOwnOverridesOneValueAndLeavesTheRestOfThePreset) {
  EXPECT_EQ(TextOf({"--kv-type", "compact", "--kv-protect-first", "0"}),
            "turbo4, last 2 layers q8");
  EXPECT_EQ(TextOf({"--kv-type", "compact", "--kv-protect-first", "0", "--kv-protect-last", "1"}),
            "turbo4, last 1 layer q8");
  EXPECT_EQ(TextOf({"--kv-type", "max", "--kv-type-v", "turbo4", "--kv-protect-type", "bf16"}),
            "turbo4, first 2 and last 2 layers bf16");
  EXPECT_EQ(TextOf({"--kv-type", "safe", "--kv-type-k", "bf16"}), "bf16/q8");
}

TEST(KvSettingTest, TheSlidingLayersOptionHasTheLastWord) {
  const auto invocation = Serve({"--kv-type", "q8", "--kv-type-v", "turbo4", "--kv-sliding-type",
                                 "bf16/turbo3", "--kv-protect-last", "0"});
  ASSERT_TRUE(invocation.ok()) << invocation.status();
  const KvFormats formats = KvFormatsOf(invocation->settings);
  EXPECT_EQ(formats.groups[0], (KvPair{KvFormat::kBf16, KvFormat::kTurbo3}));
  EXPECT_EQ(formats.groups[1], (KvPair{KvFormat::kQ8, KvFormat::kTurbo4}));
}

TEST(KvSettingTest, AnUnknownFormatIsNamedWithItsOptionAndTheKnownOnes) {
  EXPECT_THAT(Error({"--kv-type", "turbo5"}),
              AllOf(StartsWith("--kv-type is 'turbo5'"),
                    HasSubstr("f32, bf16, f16, q8, turbo4, turbo3, turbo2"), HasSubstr("balanced"),
                    HasSubstr("did you mean turbo4?")));
  EXPECT_THAT(Error({"--kv-type", "q8/tubro4"}), HasSubstr("did you mean turbo4?"));
  for (const char* wrong : {"/", "q8/", "/q8", "q8/q8/q8", "safe/q8", "Q8", "q8 "}) {
    EXPECT_THAT(Error({"--kv-type", wrong}), HasSubstr(std::string("'") + wrong + "'"));
  }
  EXPECT_THAT(Error({"--kv-type-k", "safe"}), StartsWith("--kv-type-k is 'safe'"));
  EXPECT_THAT(Error({"--kv-type-v", "q8/q8"}), StartsWith("--kv-type-v is 'q8/q8'"));
  EXPECT_THAT(Error({"--kv-sliding-type", "compact"}),
              StartsWith("--kv-sliding-type is 'compact'"));
  EXPECT_THAT(Error({"--kv-protect-type", "turbo4"}), HasSubstr("bf16, f16 or q8"));
  EXPECT_THAT(Error({"--kv-protect-first", "1001"}), HasSubstr("-1 to 1000"));
  EXPECT_THAT(Error({"--prefix-cache", "yes"}), HasSubstr("on, off or tenant"));
}

}  // namespace
}  // namespace tandem::server
