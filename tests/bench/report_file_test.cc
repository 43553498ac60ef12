#include "bench/report_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bench/compare.h"

namespace tandem::bench {
namespace {

using ::testing::HasSubstr;

// `tokens_per_ms` sets how fast the answers of the one run came.
Report ReportOf(const std::string& label, int64_t gap_us) {
  Report report;
  report.facts.command_line = "tandem bench serve --seed 1";
  report.facts.model = "demo";
  report.facts.date = "2030-01-01T00:00:00Z";
  report.goodput.ttft_ms = 100.5;
  RunResult run = {.label = label, .concurrency = 4};
  for (int i = 0; i < 3; ++i) {
    RequestRecord record = {
        .index = i, .prompt_tokens = 8, .cached_prompt_tokens = i, .output_tokens = 5};
    for (int token = 1; token <= 5; ++token) {
      record.messages.push_back({.time_us = token * gap_us, .tokens = 1});
    }
    record.end_us = 6 * gap_us;
    run.requests.push_back(record);
  }
  run.requests[2].code = 8;
  run.requests[2].reason = "QUEUE_FULL";
  run.requests[2].message = "said \"no\"";
  run.requests[2].retries = 2;
  report.runs = {run};
  return report;
}

TEST(ReportFileTest, WhatIsSavedIsReadBackUnchanged) {
  Report report = ReportOf("4 streams", 1000);
  report.runs.push_back(
      {.label = "5 req/s", .rate = 5.0, .interrupted = true, .unfinished = 3, .cpu_s = 1.25});
  const absl::StatusOr<Report> read = ParseSaved(SavedText(report));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, report);
}

TEST(ReportFileTest, AFileFromBeforeTheCacheSaysThatNothingWasCached) {
  std::string text = SavedText(ReportOf("4 streams", 1000));
  for (size_t at; (at = text.find("\"cached_prompt_tokens\":")) != std::string::npos;) {
    text.erase(at, text.find(',', at) + 1 - at);
  }
  const absl::StatusOr<Report> read = ParseSaved(text);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->runs[0].requests[2].prompt_tokens, 8);
  EXPECT_EQ(read->runs[0].requests[2].cached_prompt_tokens, 0);
}

TEST(ReportFileTest, WhatIsNoSuchFileIsRefusedWithWhatIsWrong) {
  for (const char* text : {"", "{", "[]", "{}", "{\"format\": 7}"}) {
    EXPECT_THAT(std::string(ParseSaved(text).status().message()), HasSubstr("bench serve --save"))
        << text;
  }
  const std::string good = SavedText(ReportOf("x", 1000));
  const auto damaged = [&](std::string_view from, std::string_view to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return std::string(ParseSaved(text.replace(at, from.size(), to)).status().message());
  };
  EXPECT_THAT(damaged("\"format_version\":1", "\"format_version\":9"), HasSubstr("version 9"));
  EXPECT_THAT(damaged("\"sent_us\"", "\"sent\""), HasSubstr("sent_us"));
  EXPECT_THAT(damaged("\"code\":0", "\"code\":\"x\""), HasSubstr("damaged"));
  EXPECT_THAT(damaged("\"cached_prompt_tokens\":1", "\"cached_prompt_tokens\":\"x\""),
              HasSubstr("damaged"));
  EXPECT_THAT(damaged("[1000,1]", "[1000]"), HasSubstr("damaged"));
  EXPECT_THAT(damaged("[1000,1]", "[1000,0]"), HasSubstr("without tokens"));
  EXPECT_THAT(damaged("[1000,1]", "[1000,2000000000]"), HasSubstr("16 million"));
  EXPECT_THAT(damaged("ttft:100.5", "ttft:fast"), HasSubstr("'ttft:fast'"));
}

TEST(ReportFileTest, TheFiguresComeWithoutTheRequests) {
  const auto json = nlohmann::json::parse(FiguresJson(ReportOf("4 streams", 1000)));
  EXPECT_EQ(json["facts"]["model"], "demo");
  const auto& run = json["runs"][0];
  EXPECT_EQ(run["label"], "4 streams");
  EXPECT_EQ(run["outcomes"]["RESOURCE_EXHAUSTED QUEUE_FULL"], 1);
  EXPECT_DOUBLE_EQ(run["figures"]["itl_ms_p50"].get<double>(), 1.0);
  EXPECT_FALSE(run.contains("requests"));
}

TEST(CompareTest, SingleRunsAreComparedFigureByFigure) {
  const auto compared = Compare(ReportOf("a", 1000), ReportOf("b", 2000));
  ASSERT_TRUE(compared.ok()) << compared.status();
  ASSERT_EQ(compared->size(), 1u);
  EXPECT_EQ(compared->front().label, "a / b");
  int found = 0;
  for (const ComparedFigure& figure : compared->front().figures) {
    if (figure.name == "itl_ms_p99") {
      EXPECT_DOUBLE_EQ(figure.a, 1.0);
      EXPECT_DOUBLE_EQ(figure.b, 2.0);
      EXPECT_DOUBLE_EQ(figure.ratio.value(), 2.0);
      ++found;
    }
    if (figure.name == "output_tok_per_s") {
      EXPECT_DOUBLE_EQ(figure.ratio.value(), 0.5);
      ++found;
    }
    if (figure.name == "send_lag_ms_p50") {  // 0 in both
      EXPECT_FALSE(figure.ratio.has_value());
      ++found;
    }
  }
  EXPECT_EQ(found, 3);
}

TEST(CompareTest, SweepsAreMatchedByLabelAndStrangersRefused) {
  Report a = ReportOf("1 stream", 1000);
  Report b = ReportOf("4 streams", 2000);
  const RunResult shared = ReportOf("16 streams", 500).runs[0];
  a.runs.push_back(shared);
  b.runs.push_back(shared);
  const auto compared = Compare(a, b);
  ASSERT_TRUE(compared.ok()) << compared.status();
  ASSERT_EQ(compared->size(), 1u);
  EXPECT_EQ(compared->front().label, "16 streams");
  b.runs.pop_back();
  EXPECT_THAT(std::string(Compare(a, b).status().message()),
              HasSubstr("1 stream, 16 streams; the other 4 streams"));
}

}  // namespace
}  // namespace tandem::bench
