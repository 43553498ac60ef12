#include "server/cli/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace tandem::server {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// A model of 1 GB.
BenchFacts Facts() {
  return {.command_line = "tandem bench model",
          .version = "0.1.0",
          .commit = "abc",
          .cpu = "a CPU",
          .threads = 2,
          .model = "m",
          .weight_bytes = uint64_t{1} << 30,
          .weight_type = "bf16",
          .kv_type = "bf16"};
}

// 8 steps in 4, 2 and 1.6 seconds, on a machine that reads 10 GB/s and does 100 G multiply-adds/s;
// it was at half its speed in the first run.
BenchResult OneStream() {
  return {.test = {.generate_tokens = 8, .streams = 1},
          .seconds = {4.0, 2.0, 1.6},
          .yardsticks = {{5e9, 50e9}, {10e9, 100e9}, {10e9, 100e9}},
          .steps = 8,
          .multiply_adds = 8e9,
          .weight_bytes = 8e9};
}

BenchResult FourStreams() {
  BenchResult result = OneStream();
  result.test.streams = 4;
  result.seconds = {6.0, 3.0, 2.0};
  result.multiply_adds *= 4;
  return result;
}

TEST(BenchTestsTest, LengthsAndStreamsAreCombinedAndZeroMeansNone) {
  BenchArguments arguments;
  arguments.prompt = {0, 512};
  arguments.generate = {64};
  arguments.streams = {1, 16};
  std::vector<std::string> names;
  for (const BenchTest& test : PlanTests(arguments)) names.push_back(TestName(test));
  EXPECT_THAT(names, ElementsAre("pp512", "tg64", "tg64 x16"));
}

TEST(TokenRateTest, ItIsTheMedianWithHalfTheRangeOverAllStreams) {
  const TokenRate one = RateOf(OneStream());
  EXPECT_DOUBLE_EQ(one.median, 4.0);  // of 2, 4 and 5 tokens per second
  EXPECT_DOUBLE_EQ(one.spread, (5.0 - 2.0) / 2);
  EXPECT_DOUBLE_EQ(RateOf(FourStreams()).median, 32.0 / 3);
  BenchResult even = OneStream();
  even.seconds = {1.0, 2.0, 4.0, 8.0};
  EXPECT_DOUBLE_EQ(RateOf(even).median, 3.0);  // between 2 and 4
}

TEST(BenchReportTest, TheTableHasRatesTrafficAndSharesOfTheMachine) {
  const std::string text = BenchReport(Facts(), {OneStream(), FourStreams()}, "md");
  // 1e9 bytes per token: 2, 4 and 5 GB/s of 5, 10 and 10; 1e9 multiply-adds 4 %, 4 % and 5 %.
  EXPECT_THAT(text, AllOf(HasSubstr("| m     | bf16 1.0 GiB | bf16 |       2 | tg8    |"),
                          HasSubstr("4.00 ± 1.50"), HasSubstr("1000.0"), HasSubstr("40.0 %"),
                          HasSubstr("4.0 %"), HasSubstr("tg8 x4")));
  EXPECT_THAT(text, HasSubstr("A step of tg8 takes 1.50 times as long with 4 streams as with 1 "
                              "(375.0 ms, 250.0 ms)."));
  EXPECT_THAT(text, AllOf(HasSubstr("5.0 to 10.0 GB/s"), HasSubstr("50.0 to 100.0 G/s")));
  EXPECT_THAT(text, AllOf(HasSubstr("`tandem bench model`"), HasSubstr("abc"), HasSubstr("a CPU")));
}

TEST(BenchReportTest, WithoutAProbeTheSharesAreUnknown) {
  BenchResult result = OneStream();
  result.yardsticks[1].read_bytes_per_s = 0.0;
  EXPECT_THAT(BenchReport(Facts(), {result}, "md"), HasSubstr(" ? | "));
}

TEST(BenchReportTest, JsonHasTheSameFigures) {
  const nlohmann::json json =
      nlohmann::json::parse(BenchReport(Facts(), {OneStream()}, "json"), nullptr, false);
  ASSERT_FALSE(json.is_discarded());
  EXPECT_EQ(json["model"], "m");
  ASSERT_THAT(json["tests"], SizeIs(1));
  EXPECT_DOUBLE_EQ(json["tests"][0]["tok_per_s"].get<double>(), 4.0);
  EXPECT_DOUBLE_EQ(json["tests"][0]["step_ms"].get<double>(), 250.0);
  EXPECT_DOUBLE_EQ(json["tests"][0]["read_bandwidth_share"].get<double>(), 0.4);
  EXPECT_THAT(json["tests"][0]["seconds"], SizeIs(3));
}

TEST(BenchReportTest, CsvHasALinePerTestAndAHeading) {
  const std::string text = BenchReport(Facts(), {OneStream(), FourStreams()}, "csv");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3);
  EXPECT_THAT(text, HasSubstr("tg8 x4,4,"));
}

}  // namespace
}  // namespace tandem::server
