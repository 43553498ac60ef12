#include "server/config/bench_serve_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/config/resolve.h"

namespace tandem::server {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<Invocation> ResolveWords(std::vector<std::string> words,
                                        const Environment& environment = {}) {
  words.insert(words.begin(), {"bench", "serve"});
  return Resolve(words, environment,
                 [](const std::string&) { return absl::NotFoundError("none"); });
}

std::string Error(std::vector<std::string> words) {
  return std::string(ResolveWords(std::move(words)).status().message());
}

TEST(BenchServeOptionsTest, EveryValueArrives) {
  const auto resolved =
      ResolveWords({"--connect", "localhost:1", "--concurrency", "1,4,16", "--prompt-tokens",
                    "lognormal:200:0.5", "-g", "32-64", "--requests", "100", "--goodput",
                    "ttft:500,itl:50", "--temperature", "0", "--seed", "7", "--unary"});
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const BenchServeArguments& arguments = resolved->settings.bench_serve;
  EXPECT_EQ(arguments.connect, "localhost:1");
  EXPECT_THAT(arguments.concurrency, ElementsAre(1, 4, 16));
  EXPECT_EQ(arguments.prompt_tokens, "lognormal:200:0.5");
  EXPECT_EQ(arguments.output_tokens, "32-64");
  EXPECT_EQ(arguments.requests, 100);
  EXPECT_EQ(arguments.goodput, "ttft:500,itl:50");
  EXPECT_EQ(arguments.temperature, 0.0);
  EXPECT_EQ(arguments.seed, 7u);
  EXPECT_TRUE(arguments.unary);
}

TEST(BenchServeOptionsTest, CompareTakesTwoWords) {
  const auto resolved = ResolveWords({"--compare", "a.json", "b.json", "--output", "csv"});
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_THAT(resolved->settings.bench_serve.compare, ElementsAre("a.json", "b.json"));
  EXPECT_THAT(Error({"--compare", "a.json"}), HasSubstr("--compare needs"));
  EXPECT_THAT(Error({"--compare", "a", "b", "--compare", "c", "d"}), HasSubstr("two files, once"));
  EXPECT_THAT(Error({"--compare", "a", "b", "--seed", "3"}),
              HasSubstr("--seed and --compare contradict"));
}

TEST(BenchServeOptionsTest, FlagsThatContradictEachOtherAreNamed) {
  EXPECT_THAT(Error({"--connect", "h:1", "--rate", "5", "--concurrency", "4"}),
              HasSubstr("--rate and --concurrency contradict"));
  EXPECT_THAT(Error({"--connect", "h:1", "--requests", "5", "--duration", "4"}),
              HasSubstr("--requests and --duration contradict"));
  EXPECT_THAT(Error({"--connect", "h:1", "--stream", "--unary"}),
              HasSubstr("--stream and --unary contradict"));
  EXPECT_THAT(Error({"--connect", "h:1", "--arrivals", "burst"}),
              HasSubstr("--arrivals needs --rate"));
  EXPECT_THAT(Error({"--connect", "h:1", "--rate", "1", "--burst-size", "4"}),
              HasSubstr("--burst-size needs --arrivals burst"));
  EXPECT_THAT(Error({"--connect", "h:1", "--threads", "2"}),
              HasSubstr("--threads has no effect with --connect"));
  EXPECT_THAT(Error({"--connect", "h:1", "--repetitions", "2"}), HasSubstr("--repetitions"));
  EXPECT_THAT(Error({"--rate", "5"}), HasSubstr("--rate needs --connect HOST:PORT"));
  EXPECT_THAT(Error({"--concurrency", "1,2"}), HasSubstr("one value without --connect"));
  EXPECT_THAT(Error({"--prompts", "f", "--prompt-tokens", "5"}), HasSubstr("--prompts"));
}

TEST(BenchServeOptionsTest, ASettingOfTheEnvironmentIsNoContradiction) {
  EXPECT_TRUE(ResolveWords({"--connect", "h:1"}, {{"TANDEM_THREADS", "2"}}).ok());
}

TEST(BenchServeOptionsTest, ValuesAreCheckedWithTheirFlag) {
  EXPECT_THAT(Error({"--prompt-tokens", "many"}),
              AllOf(HasSubstr("--prompt-tokens"), HasSubstr("lognormal:MEAN:SIGMA")));
  EXPECT_THAT(Error({"--goodput", "fast"}), AllOf(HasSubstr("--goodput"), HasSubstr("ttft:MS")));
  EXPECT_THAT(Error({"--connect", "nowhere"}), HasSubstr("HOST:PORT"));
  EXPECT_THAT(Error({"--connect", "h:1", "--rate", "0"}), HasSubstr("--rate"));
}

}  // namespace
}  // namespace tandem::server
