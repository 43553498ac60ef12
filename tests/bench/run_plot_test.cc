#include "bench/run_plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <optional>
#include <regex>

namespace tandem::bench {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// What is wrong with `xml` as far as tags go: nesting, quotes of attributes, bare & and <.
std::optional<std::string> XmlMistake(const std::string& xml) {
  static const std::regex kTag(R"(<(/?)([a-z]+)((?: [a-zA-Z0-9:-]+="[^"<]*")*)(/?)>)");
  static const std::regex kText(R"((?:[^<&]|&(?:amp|lt|gt|quot);)*)");
  std::vector<std::string> open;
  size_t at = 0;
  while (at < xml.size()) {
    const size_t tag = std::min(xml.find('<', at), xml.size());
    const std::string text = xml.substr(at, tag - at);
    if (!std::regex_match(text, kText)) return "text: " + text;
    if (tag == xml.size()) break;
    const size_t end = xml.find('>', tag);
    if (end == std::string::npos) return "open end";
    const std::string whole = xml.substr(tag, end + 1 - tag);
    std::smatch parts;
    if (!std::regex_match(whole, parts, kTag)) return "tag: " + whole.substr(0, 80);
    if (parts[1].length() > 0) {
      if (open.empty() || open.back() != parts[2]) return "closes nothing: " + whole;
      open.pop_back();
    } else if (parts[4].length() == 0) {
      open.push_back(parts[2]);
    }
    at = end + 1;
  }
  if (!open.empty()) return "left open: " + open.back();
  return std::nullopt;
}

// The points of each polyline.
std::vector<size_t> PolylineSizes(const std::string& svg) {
  std::vector<size_t> sizes;
  static const std::regex kPolyline("<polyline[^>]* points=\"([^\"]*)\"");
  for (std::sregex_iterator it(svg.begin(), svg.end(), kPolyline), end; it != end; ++it) {
    const std::string points = (*it)[1];
    sizes.push_back(std::count(points.begin(), points.end(), ','));
  }
  return sizes;
}

RunResult RunOf(const std::string& label, int concurrency, int requests) {
  RunResult run = {.label = label, .concurrency = concurrency};
  for (int i = 0; i < requests; ++i) {
    RequestRecord record = {.index = i, .prompt_tokens = 8, .output_tokens = 10};
    for (int token = 1; token <= 10; ++token) {
      record.messages.push_back({.time_us = (token + i) * 50'000, .tokens = 1});
    }
    record.end_us = record.messages.back().time_us;
    run.requests.push_back(record);
  }
  return run;
}

TEST(SvgTest, TheTextOfEveryPartIsEscaped) {
  const std::string svg = RenderSvg("a < b & \"c\"", {"x > y\x01"},
                                    {{.title = "<t>",
                                      .x_label = "&",
                                      .y_label = "y",
                                      .series = {{.name = "n<1", .points = {{0, 0}, {3, 4}}}}}});
  EXPECT_EQ(XmlMistake(svg), std::nullopt);
  EXPECT_THAT(svg, HasSubstr("a &lt; b &amp; &quot;c&quot;"));
  EXPECT_THAT(svg, HasSubstr("n&lt;1"));
}

TEST(SvgTest, EveryPointIsDrawnInsideThePicture) {
  Chart chart = {.title = "t", .x_label = "x", .y_label = "y", .wide = true};
  chart.series = {{.name = "one"}, {.name = "two", .points = {{1e6, 1e-3}}}};
  for (int i = 0; i < 37; ++i) chart.series[0].points.push_back({i * 1e5, i * 1e-4});
  const std::string svg = RenderSvg("title", {}, {chart});
  EXPECT_EQ(XmlMistake(svg), std::nullopt);
  EXPECT_THAT(PolylineSizes(svg), ::testing::ElementsAre(37, 1));
  static const std::regex kPoint("([0-9.]+),([0-9.]+)");
  const std::string points = svg.substr(svg.find(" points="));
  for (std::sregex_iterator it(points.begin(), points.end(), kPoint), end; it != end; ++it) {
    EXPECT_LE(std::stod((*it)[1]), 900);
    EXPECT_LE(std::stod((*it)[2]), 400);
  }
}

TEST(SvgTest, AChartWithoutPointsSaysSo) {
  const std::string svg = RenderSvg(
      "t", {}, {{.title = "c", .x_label = "x", .y_label = "y", .series = {{.name = "n"}}}});
  EXPECT_EQ(XmlMistake(svg), std::nullopt);
  EXPECT_THAT(svg, HasSubstr("nothing was measured"));
}

TEST(RunPlotTest, TheRateIsTokensOverTheWidthOfABin) {
  // Given 10 streams of a token every 50 ms, each starting 50 ms after the one before: 950 ms.
  const std::vector<Point> points = RatePoints(RunOf("x", 10, 10));
  // Then bins of 100 ms hold all tokens but those of the last, incomplete one.
  ASSERT_EQ(points.size(), 9u);
  double tokens = 0.0;
  for (const Point& point : points) tokens += point.y * 0.1;
  EXPECT_NEAR(tokens, 100 - 3, 1e-6);
  EXPECT_NEAR(points[0].x, 0.05, 1e-9);
}

TEST(RunPlotTest, ACumulativeCurveRisesOverTheSamples) {
  std::vector<double> samples;
  for (int i = 0; i <= 1000; ++i) samples.push_back(i);
  const std::vector<Point> points = CumulativePoints(samples);
  ASSERT_EQ(points.size(), 201u);
  EXPECT_DOUBLE_EQ(points.front().x, 0);
  EXPECT_DOUBLE_EQ(points.back().x, 995);
  EXPECT_DOUBLE_EQ(points.back().y, 0.995);
  EXPECT_TRUE(CumulativePoints({}).empty());
}

TEST(RunPlotTest, ASweepAlsoShowsTheLoad) {
  Report report;
  report.facts.model = "demo & more";
  report.runs = {RunOf("1 stream", 1, 3)};
  const std::string one = PlotSvg(report);
  EXPECT_EQ(XmlMistake(one), std::nullopt);
  EXPECT_THAT(PolylineSizes(one),
              ::testing::ElementsAre(201, 201, RatePoints(report.runs[0]).size()));
  EXPECT_THAT(one, Not(HasSubstr("under load")));
  report.runs.push_back(RunOf("4 streams", 4, 5));
  const std::string sweep = PlotSvg(report);
  EXPECT_EQ(XmlMistake(sweep), std::nullopt);
  EXPECT_EQ(PolylineSizes(sweep).size(), 3u * 2 + 3);
  EXPECT_THAT(sweep, HasSubstr("Throughput under load"));
}

}  // namespace
}  // namespace tandem::bench
