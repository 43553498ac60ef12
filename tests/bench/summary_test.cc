#include "bench/summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace tandem::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

// A stream sent at `sent_us` with messages at these times, ended 1 ms after the last.
RequestRecord Stream(int64_t sent_us, std::vector<TokenMessage> messages) {
  RequestRecord record = {.due_us = sent_us, .sent_us = sent_us};
  for (const TokenMessage& message : messages) record.output_tokens += message.tokens;
  record.end_us = messages.back().time_us + 1000;
  record.messages = std::move(messages);
  record.prompt_tokens = 10;
  return record;
}

double Find(const std::vector<NamedFigure>& figures, std::string_view name) {
  for (const NamedFigure& figure : figures) {
    if (figure.name == name) return figure.value;
  }
  ADD_FAILURE() << "no " << name;
  return -1;
}

TEST(QuantileTest, IsExactAtSamplesAndLinearBetweenThem) {
  const std::vector<double> sorted = {10, 20, 30, 40, 50};
  EXPECT_DOUBLE_EQ(Quantile(sorted, 0.0), 10);
  EXPECT_DOUBLE_EQ(Quantile(sorted, 0.5), 30);
  EXPECT_DOUBLE_EQ(Quantile(sorted, 0.9), 46);
  EXPECT_DOUBLE_EQ(Quantile(sorted, 0.99), 49.6);
  EXPECT_DOUBLE_EQ(Quantile(sorted, 1.0), 50);
  EXPECT_DOUBLE_EQ(Quantile(std::vector<double>{7}, 0.99), 7);
  EXPECT_DOUBLE_EQ(Quantile({}, 0.5), 0);
}

TEST(SamplesTest, AGapIsDividedOverTheTokensOfItsMessage) {
  // Given a stream whose second message brings 4 tokens after 80 ms, the third one after 5 ms.
  RunResult run;
  run.requests = {Stream(1000, {{51'000, 1}, {131'000, 4}, {136'000, 1}})};
  // When its samples are taken.
  const Samples samples = SamplesOf(run);
  // Then the gap counts four times as 20 ms.
  EXPECT_THAT(samples.ttft, ElementsAre(50));
  EXPECT_THAT(samples.itl, ElementsAre(5, 20, 20, 20, 20));
  EXPECT_THAT(samples.tpot, ElementsAre(17));  // 85 ms over the 5 tokens after the first
  EXPECT_THAT(samples.e2e, ElementsAre(136));
}

TEST(SamplesTest, FailedRequestsHaveNoLatencyButTheirTokensCount) {
  RunResult run;
  run.requests = {Stream(0, {{10'000, 1}, {20'000, 1}}), Stream(0, {{500'000, 1}, {999'000, 1}})};
  run.requests[1].code = 4;
  run.requests[1].reason = "DEADLINE";
  const Figures figures = Summarize(run, {});
  EXPECT_EQ(figures.ok, 1);
  EXPECT_EQ(figures.failed, 1);
  EXPECT_EQ(figures.ttft.count, 1u);
  EXPECT_DOUBLE_EQ(figures.ttft.p99, 10);
  EXPECT_DOUBLE_EQ(figures.duration_s, 1.0);
  EXPECT_DOUBLE_EQ(figures.requests_per_s, 1.0);
  EXPECT_DOUBLE_EQ(figures.output_tokens_per_s, 4.0);
  EXPECT_DOUBLE_EQ(figures.total_tokens_per_s, 24.0);
  EXPECT_THAT(figures.outcomes, ElementsAre(Pair("DEADLINE_EXCEEDED DEADLINE", 1), Pair("OK", 1)));
}

TEST(SummarizeTest, UnaryCallsHaveOnlyTheirWholeTime) {
  RunResult run;
  run.requests = {{.sent_us = 0,
                   .end_us = 250'000,
                   .prompt_tokens = 4,
                   .cached_prompt_tokens = 3,
                   .output_tokens = 16}};
  const std::vector<NamedFigure> figures = FigureList(Summarize(run, {}));
  EXPECT_DOUBLE_EQ(Find(figures, "e2e_ms_p50"), 250);
  EXPECT_DOUBLE_EQ(Find(figures, "output_tok_per_s"), 64);
  EXPECT_DOUBLE_EQ(Find(figures, "input_tokens"), 4);
  EXPECT_DOUBLE_EQ(Find(figures, "cached_input_tokens"), 3);
  EXPECT_TRUE(std::none_of(figures.begin(), figures.end(), [](const NamedFigure& figure) {
    return figure.name.starts_with("ttft") || figure.name.starts_with("itl") ||
           figure.name.starts_with("good");
  }));
}

TEST(SummarizeTest, ARunWithoutRequestsHasZeros) {
  const Figures figures = Summarize({}, *ParseGoodput("ttft:5"));
  EXPECT_EQ(figures.duration_s, 0.0);
  EXPECT_EQ(figures.requests_per_s, 0.0);
  EXPECT_FALSE(figures.good_per_s.has_value());
}

TEST(GoodputTest, CountsRequestsThatKeepEveryLimit) {
  RunResult run;
  run.requests = {
      Stream(0, {{100'000, 1}, {120'000, 1}, {140'000, 1}}),     // ttft 100, itl 20, e2e 141
      Stream(0, {{300'000, 1}, {310'000, 1}}),                   // ttft too long
      Stream(0, {{100'000, 1}, {200'000, 1}}),                   // itl too long
      Stream(0, {{100'000, 1}, {130'000, 20}, {1'999'000, 90}})  // e2e too long
  };
  const auto good = [&](std::string_view limits) {
    return Summarize(run, *ParseGoodput(limits)).good_share.value_or(-1);
  };
  EXPECT_DOUBLE_EQ(good("ttft:200,itl:50,e2e:1000"), 0.25);
  EXPECT_DOUBLE_EQ(good("ttft:100"), 0.75);  // a limit may be reached
  EXPECT_DOUBLE_EQ(good("itl:50"), 0.75);
  EXPECT_DOUBLE_EQ(good("e2e:1000"), 0.75);
  EXPECT_DOUBLE_EQ(*Summarize(run, *ParseGoodput("itl:50")).good_per_s, 3 / 2.0);
}

TEST(GoodputTest, LimitsAreReadAndWrittenAndMistakesTold) {
  const auto limits = ParseGoodput("e2e:1000.5,ttft:200");
  ASSERT_TRUE(limits.ok()) << limits.status();
  EXPECT_EQ(GoodputText(*limits), "ttft:200,e2e:1000.5");
  EXPECT_FALSE(ParseGoodput("").value().any());
  for (const char* text :
       {"ttft", "ttft:", "ttft:x", "tpot:3", "itl:1,itl:2", "itl:-1", "e2e:inf"}) {
    EXPECT_THAT(std::string(ParseGoodput(text).status().message()), HasSubstr("ttft:MS")) << text;
  }
}

}  // namespace
}  // namespace tandem::bench
