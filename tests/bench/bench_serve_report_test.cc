#include "server/cli/bench_serve_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

namespace tandem::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// `requests` streams of 11 tokens, one every `gap_us`, all sent at once.
bench::RunResult RunOf(const std::string& label, int requests, int64_t gap_us) {
  bench::RunResult run = {.label = label, .concurrency = requests};
  for (int i = 0; i < requests; ++i) {
    bench::RequestRecord record = {.index = i, .prompt_tokens = 20, .output_tokens = 11};
    for (int token = 1; token <= 11; ++token) {
      record.messages.push_back({.time_us = token * gap_us, .tokens = 1});
    }
    record.end_us = 11 * gap_us;
    run.requests.push_back(record);
  }
  return run;
}

bench::Report ReportOf(std::vector<bench::RunResult> runs) {
  bench::Report report;
  report.facts.command_line = "tandem bench serve --connect localhost:50051";
  report.facts.model = "demo";
  report.facts.server_commit = "abc123";
  report.runs = std::move(runs);
  return report;
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(BenchServeReportTest, OneRunShowsItsLatenciesAndWhatRepeatsIt) {
  const std::string text = BenchServeReport(ReportOf({RunOf("4 streams", 4, 10'000)}), "md");
  EXPECT_THAT(text, AllOf(HasSubstr("4 streams"), HasSubstr("out tok/s"), HasSubstr("end to end"),
                          HasSubstr("`tandem bench serve --connect localhost:50051`"),
                          HasSubstr("abc123")));
  EXPECT_THAT(text, HasSubstr("| ITL        | 10.0 | 10.0 | 10.0 | 10.0 |      40 |"));
  EXPECT_THAT(text, Not(HasSubstr("good req/s")));
}

TEST(BenchServeReportTest, WhatThePrefixCacheSparedHasAColumnOnceItSparedSomething) {
  bench::Report report = ReportOf({RunOf("1 stream", 1, 1000), RunOf("4 streams", 4, 2000)});
  EXPECT_THAT(BenchServeReport(report, "md"), Not(HasSubstr("prompt cached")));
  for (bench::RequestRecord& record : report.runs[1].requests) record.cached_prompt_tokens = 15;
  const std::string text = BenchServeReport(report, "md");
  EXPECT_THAT(text, AllOf(HasSubstr("prompt cached"), HasSubstr("|           0 % |"),
                          HasSubstr("|          75 % |")));
}

TEST(BenchServeReportTest, ASweepHasARowPerLevelAndFailuresAreListed) {
  bench::Report report = ReportOf({RunOf("1 stream", 1, 1000), RunOf("4 streams", 4, 2000)});
  report.runs[1].requests[3].code = 8;
  report.runs[1].requests[3].reason = "QUEUE_FULL";
  report.runs[1].interrupted = true;
  report.runs[1].unfinished = 7;
  report.goodput.itl_ms = 1.5;
  const std::string text = BenchServeReport(report, "md");
  const std::vector<std::string> lines = Lines(text);
  EXPECT_EQ(std::count_if(lines.begin(), lines.end(),
                          [](const std::string& line) { return line.starts_with("| 4 streams"); }),
            2);  // its figures, its failures
  EXPECT_THAT(text, AllOf(HasSubstr("RESOURCE_EXHAUSTED QUEUE_FULL"),
                          HasSubstr("7 requests had not finished"), HasSubstr("(100 %)"),
                          HasSubstr("(0 %)"), HasSubstr("Good: itl:1.5")));
}

TEST(BenchServeReportTest, CsvHasAColumnForEveryFigureAndARowPerRun) {
  bench::Report report = ReportOf({RunOf("1 stream", 1, 1000), RunOf("unary", 1, 1000)});
  for (bench::RequestRecord& record : report.runs[1].requests) record.messages.clear();
  const std::vector<std::string> lines = Lines(BenchServeReport(report, "csv"));
  ASSERT_EQ(lines.size(), 3u);
  const auto cells = [](const std::string& line) {
    return std::count(line.begin(), line.end(), ',');
  };
  EXPECT_THAT(lines[0],
              AllOf(HasSubstr("label,"), HasSubstr(",ttft_ms_p99,"), HasSubstr(",command_line")));
  EXPECT_EQ(cells(lines[0]), cells(lines[1]));
  EXPECT_EQ(cells(lines[0]), cells(lines[2]));
}

TEST(TransportCostTest, TheRatioIsTheMedianOfPairsPerInterval) {
  // Given pairs whose gRPC runs take 1.25, 2 and 4 times as long, and one of another interval.
  std::vector<TransportPair> pairs;
  for (const int64_t gap_us : {2500, 4000, 8000}) {
    pairs.push_back({.stream_interval_tokens = 8,
                     .in_process = RunOf("a", 2, 2000),
                     .grpc = RunOf("b", 2, gap_us)});
    pairs.back().grpc.cpu_s = 0.011;
  }
  pairs.push_back({.stream_interval_tokens = 1,
                   .in_process = RunOf("a", 2, 1000),
                   .grpc = RunOf("b", 2, 1000)});
  // When their cost is computed.
  const std::vector<TransportCost> costs = TransportCosts(pairs);
  // Then intervals come in order, each with its medians.
  ASSERT_EQ(costs.size(), 2u);
  EXPECT_EQ(costs[0].stream_interval_tokens, 1);
  EXPECT_DOUBLE_EQ(costs[0].ratio, 1.0);
  EXPECT_EQ(costs[1].pairs, 3);
  EXPECT_DOUBLE_EQ(costs[1].ratio, 0.5);
  EXPECT_DOUBLE_EQ(costs[1].best_ratio, 0.8);
  EXPECT_DOUBLE_EQ(costs[1].grpc_cpu_us, 500.0);
  EXPECT_DOUBLE_EQ(costs[1].in_process_tok_per_s, 1000.0);
  EXPECT_DOUBLE_EQ(costs[1].grpc_itl_ms, 4.0);

  const bench::Report report = ReportOf({pairs[0].in_process, pairs[0].grpc});
  EXPECT_THAT(TransportReport(report, pairs, "md"), HasSubstr("0.500"));
  const auto json = nlohmann::json::parse(TransportReport(report, pairs, "json"));
  EXPECT_DOUBLE_EQ(json["transport"][1]["ratio"].get<double>(), 0.5);
}

TEST(CompareReportTest, EveryFormatHasBothValuesAndTheirRatio) {
  const std::vector<bench::ComparedRun> runs = {
      {.label = "4 streams",
       .figures = {{.name = "ttft_ms_p50", .a = 8.0, .b = 6.0, .ratio = 0.75},
                   {.name = "requests_failed", .a = 0.0, .b = 1.0, .ratio = std::nullopt}}}};
  const std::string md = CompareReport("a.json", "b.json", runs, "md");
  EXPECT_THAT(md, AllOf(HasSubstr("a.json"), HasSubstr("0.750")));
  EXPECT_THAT(CompareReport("a.json", "b.json", runs, "csv"),
              AllOf(HasSubstr("4 streams,ttft_ms_p50,8,6,0.75"),
                    HasSubstr("4 streams,requests_failed,0,1,\n")));
  const auto json = nlohmann::json::parse(CompareReport("a.json", "b.json", runs, "json"));
  EXPECT_DOUBLE_EQ(json["runs"][0]["figures"]["ttft_ms_p50"]["ratio"].get<double>(), 0.75);
  EXPECT_FALSE(json["runs"][0]["figures"]["requests_failed"].contains("ratio"));
}

}  // namespace
}  // namespace tandem::server
