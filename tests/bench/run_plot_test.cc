#include "bench/run_plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::bench {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Whether no bare < or & stands in `text`.
bool IsEscaped(std::string_view text) {
  for (size_t at = text.find_first_of("<&"); at != std::string_view::npos;
       at = text.find_first_of("<&", at + 1)) {
    const std::string_view rest = text.substr(at);
    if (!rest.starts_with("&amp;") && !rest.starts_with("&lt;") && !rest.starts_with("&gt;") &&
        !rest.starts_with("&quot;")) {
      return false;
    }
  }
  return true;
}

// Whether `text` is a row of ` name="value"`.
bool AreAttributes(std::string_view text) {
  while (!text.empty()) {
    const size_t equals = text.find("=\"");
    if (text[0] != ' ' || equals == std::string_view::npos || equals < 2) return false;
    if (text.substr(1, equals - 1).find_first_of(" \"/<>=") != std::string_view::npos) return false;
    const size_t end = text.find('"', equals + 2);
    if (end == std::string_view::npos || !IsEscaped(text.substr(equals, end - equals)))
      return false;
    text.remove_prefix(end + 1);
  }
  return true;
}

// What is wrong with `xml` as far as tags, attributes and entities go.
std::optional<std::string> XmlMistake(std::string_view xml) {
  std::vector<std::string> open;
  while (!xml.empty()) {
    const std::string_view text = xml.substr(0, xml.find('<'));
    if (!IsEscaped(text)) return "text: " + std::string(text);
    xml.remove_prefix(text.size());
    if (xml.empty()) break;
    const size_t end = xml.find('>');
    if (end == std::string_view::npos) return "open end";
    std::string_view tag = xml.substr(1, end - 1);
    const std::string shown(tag.substr(0, 80));
    xml.remove_prefix(end + 1);
    const bool closes = tag.starts_with("/");
    if (closes) tag.remove_prefix(1);
    const bool empty = tag.ends_with("/");
    if (empty) tag.remove_suffix(1);
    const std::string name(tag.substr(0, tag.find(' ')));
    if (name.empty() || !AreAttributes(tag.substr(name.size()))) return "tag: " + shown;
    if (closes) {
      if (open.empty() || open.back() != name) return "closes nothing: " + shown;
      open.pop_back();
    } else if (!empty) {
      open.push_back(name);
    }
  }
  if (!open.empty()) return "left open: " + open.back();
  return std::nullopt;
}

// The `points` of each polyline.
std::vector<std::string> Polylines(std::string_view svg) {
  constexpr std::string_view kPoints = " points=\"";
  std::vector<std::string> lines;
  for (size_t at = svg.find("<polyline"); at != std::string_view::npos;
       at = svg.find("<polyline", at + 1)) {
    const size_t begin = svg.find(kPoints, at) + kPoints.size();
    lines.emplace_back(svg.substr(begin, svg.find('"', begin) - begin));
  }
  return lines;
}

std::vector<size_t> PolylineSizes(std::string_view svg) {
  std::vector<size_t> sizes;
  for (const std::string& line : Polylines(svg)) {
    sizes.push_back(std::count(line.begin(), line.end(), ','));
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
  for (const std::string& line : Polylines(svg)) {
    std::istringstream points(line);
    double x = 0.0;
    double y = 0.0;
    char comma = 0;
    while (points >> x >> comma >> y) {
      EXPECT_EQ(comma, ',');
      EXPECT_LE(x, 900);
      EXPECT_LE(y, 400);
    }
    EXPECT_TRUE(points.eof()) << line;
  }
}

TEST(XmlMistakeTest, SeesWhatAParserWouldRefuse) {
  EXPECT_EQ(XmlMistake("<a x=\"1\" y-z=\"&lt;\"><b/>t &amp; u</a>\n"), std::nullopt);
  for (const char* xml : {"<a>", "</a>", "<a></b>", "<a x=1/>", "<a x=\"1/>", "<a>&</a>", "<a",
                          "<a x=\"<\"/>", "<a><b></a></b>", "<a \"\"/>"}) {
    EXPECT_NE(XmlMistake(xml), std::nullopt) << xml;
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
