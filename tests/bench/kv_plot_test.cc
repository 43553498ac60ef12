#include "bench/kv_plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

namespace tandem::bench {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

struct Mark {
  double x = 0.0, y = 0.0;
};

std::vector<Mark> MarksOf(const std::string& svg) {
  std::vector<Mark> marks;
  for (size_t at = svg.find("<circle"); at != std::string::npos; at = svg.find("<circle", at + 1)) {
    Mark mark;
    if (std::sscanf(svg.c_str() + at, "<circle cx=\"%lf\" cy=\"%lf\"", &mark.x, &mark.y) == 2) {
      marks.push_back(mark);
    }
  }
  return marks;
}

// Where the text `name` stands.
Mark PlaceOf(const std::string& svg, const std::string& name) {
  const size_t end = svg.find(">" + name + "</text>");
  Mark mark;
  if (end == std::string::npos) return mark;
  const size_t begin = svg.rfind("<text", end);
  std::sscanf(svg.c_str() + begin, "<text x=\"%lf\" y=\"%lf\"", &mark.x, &mark.y);
  return mark;
}

TEST(KvPlotTest, EveryFormatIsANamedMarkOnALogarithmicAxis) {
  const std::string svg = KvPlotSvg(
      "formats", {"a subtitle"}, {{"q8", 500, 1e-5}, {"turbo4", 250, 1e-3}, {"turbo2", 125, 0.1}});
  const std::vector<Mark> marks = MarksOf(svg);
  ASSERT_THAT(marks, SizeIs(3));
  for (const char* name : {"q8", "turbo4", "turbo2", "formats", "a subtitle"}) {
    EXPECT_THAT(svg, HasSubstr(">" + std::string(name) + "</text>"));
  }
  // Fewer bytes further left, each factor of 100 as far above the one before.
  EXPECT_GT(marks[0].x, marks[1].x);
  EXPECT_GT(marks[0].y, marks[1].y);
  EXPECT_NEAR(marks[0].y - marks[1].y, marks[1].y - marks[2].y, 0.2);
  for (const char* power : {"1e-5", "1e-4", "1e-1"}) {
    EXPECT_THAT(svg, HasSubstr(">" + std::string(power) + "</text>"));
  }
  EXPECT_THAT(svg, Not(HasSubstr("<polyline")));
}

TEST(KvPlotTest, WhatDoesNotDivergeHasNoPlaceOnTheAxis) {
  const std::string svg = KvPlotSvg("formats", {}, {{"bf16", 500, 0.0}, {"turbo4", 250, 1e-3}});
  EXPECT_THAT(MarksOf(svg), SizeIs(1));
  EXPECT_THAT(svg, Not(HasSubstr(">bf16</text>")));
}

TEST(KvPlotTest, NamesOfMarksThatLieOnEachOtherStandApart) {
  const std::string svg = KvPlotSvg("formats", {}, {{"f16", 500, 1e-5}, {"bf16", 500, 1.01e-5}});
  const Mark first = PlaceOf(svg, "f16");
  const Mark second = PlaceOf(svg, "bf16");
  EXPECT_GT(std::abs(first.x - second.x) + std::abs(first.y - second.y), 12.0);
}

TEST(KvPlotTest, WithoutAnythingMeasuredItSaysSo) {
  EXPECT_THAT(KvPlotSvg("formats", {}, {}), HasSubstr("nothing was measured"));
}

}  // namespace
}  // namespace tandem::bench
