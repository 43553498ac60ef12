#include "server/config/bench_kv_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/config/resolve.h"

namespace tandem::server {
namespace {

using kernels::KvFormat;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<Invocation> ResolveBench(std::vector<std::string> words) {
  words.insert(words.begin(), "bench");
  return Resolve(words, {}, [](const std::string&) { return absl::NotFoundError("none"); });
}

std::string Error(const std::vector<std::string>& words) {
  return std::string(ResolveBench(words).status().message());
}

TEST(KvChoiceTest, AFormatOrAPairProtectsNothingAndAPresetWhatItDoes) {
  const KvChoice pair = ParseKvChoice("q8/turbo4").value();
  EXPECT_EQ(pair.name, "q8/turbo4");
  for (const kvcache::KvPair& group : pair.formats.groups) {
    EXPECT_EQ(group, (kvcache::KvPair{KvFormat::kQ8, KvFormat::kTurbo4}));
  }
  const KvChoice turbo2 = ParseKvChoice("turbo2").value();
  EXPECT_EQ(turbo2.formats.protect_first + turbo2.formats.protect_last, 0);
  const KvChoice compact = ParseKvChoice("compact").value();
  EXPECT_EQ(compact.formats.protect_first, 2);
  EXPECT_EQ(compact.formats.protect_last, 2);
}

TEST(KvChoiceTest, AnUnknownNameIsRefusedWithThoseThereAre) {
  for (const char* wrong : {"q4", "", "q8/", "/q8", "q8/turbo4/q8", "compact/q8", "Q8"}) {
    const absl::Status status = ParseKvChoice(wrong).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << wrong;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("turbo2"), HasSubstr("balanced")));
  }
}

TEST(BenchKvOptionsTest, AllOfThemArrive) {
  const auto invocation =
      ResolveBench({"kv", "-f", "q8,turbo4/turbo2", "-c", "512,64", "-s", "3", "-r", "7", "-o",
                    "json", "--model-shape", "12b", "--block-tokens", "16", "--cpu-isa", "ref"});
  ASSERT_TRUE(invocation.ok()) << invocation.status();
  const BenchKvArguments& kv = invocation->settings.bench_kv;
  EXPECT_EQ(kv.formats, "q8,turbo4/turbo2");
  EXPECT_THAT(kv.context, ElementsAre(512, 64));
  EXPECT_EQ(kv.sequences, 3);
  EXPECT_EQ(kv.repetitions, 7);
  EXPECT_EQ(kv.output, "json");
  EXPECT_EQ(kv.model_shape, "12b");
  EXPECT_EQ(invocation->settings.block_tokens, 16);
}

TEST(BenchKvOptionsTest, TheDefaultsAreFormatsThatThereAre) {
  const Settings defaults;
  EXPECT_EQ(ParseKvChoices(defaults.bench_kv.formats)->size(), size_t{kernels::kNumKvFormats});
  EXPECT_TRUE(ParseKvChoices(defaults.bench_kv_quality.formats).ok());
  EXPECT_EQ(defaults.bench_kv_quality.requests, 300);
}

TEST(BenchKvOptionsTest, WhatDoesNotGoTogetherIsRefused) {
  EXPECT_THAT(Error({"kv", "--formats", "q8,compact"}), HasSubstr("compact"));
  EXPECT_THAT(Error({"kv", "--formats", "q8,q8"}), HasSubstr("twice"));
  EXPECT_THAT(Error({"kv", "--formats", "q8,"}), HasSubstr("--formats"));
  EXPECT_THAT(Error({"kv", "--context", "0"}), HasSubstr("--context"));
  EXPECT_THAT(Error({"kv", "--model", "m", "--model-shape", "e2b"}),
              AllOf(HasSubstr("--model-shape"), HasSubstr("contradict")));
  EXPECT_THAT(Error({"kv", "--kv-type", "q8"}), HasSubstr("--kv-type"));
  EXPECT_THAT(Error({"kv", "--model-shape", "e5b"}), HasSubstr("e2b, e4b"));
}

TEST(BenchKvOptionsTest, AModelInTheEnvironmentIsNotMeant) {
  const std::vector<std::string> words = {"bench", "kv", "--model-shape", "e2b"};
  const auto invocation = Resolve(words, {{"TANDEM_MODEL", "m"}},
                                  [](const std::string&) { return absl::NotFoundError("none"); });
  ASSERT_TRUE(invocation.ok()) << invocation.status();
  EXPECT_EQ(invocation->settings.bench_kv.model, "");
  EXPECT_EQ(invocation->settings.bench_kv.model_shape, "e2b");
}

TEST(BenchKvQualityOptionsTest, AllOfThemArrive) {
  const auto invocation =
      ResolveBench({"kv-quality", "-f", "balanced,turbo3", "--reference", "f32", "-p", "file", "-r",
                    "0", "-n", "9", "-s", "2", "-o", "json", "--plot", "x.svg", "--dtype", "f32"});
  ASSERT_TRUE(invocation.ok()) << invocation.status();
  const BenchKvQualityArguments& quality = invocation->settings.bench_kv_quality;
  EXPECT_EQ(quality.formats, "balanced,turbo3");
  EXPECT_EQ(quality.reference, "f32");
  EXPECT_EQ(quality.prompts, "file");
  EXPECT_EQ(quality.requests, 0);
  EXPECT_EQ(quality.generate, 9);
  EXPECT_EQ(quality.streams, 2);
  EXPECT_EQ(quality.output, "json");
  EXPECT_EQ(quality.plot, "x.svg");
}

TEST(BenchKvQualityOptionsTest, AnUnknownFormatIsRefusedByTheFlagAndTheName) {
  EXPECT_THAT(Error({"kv-quality", "--formats", "q8,q5"}),
              AllOf(HasSubstr("--formats"), HasSubstr("q5"), HasSubstr("turbo3")));
  EXPECT_THAT(Error({"kv-quality", "--reference", "bf15"}), HasSubstr("--reference"));
}

}  // namespace
}  // namespace tandem::server
