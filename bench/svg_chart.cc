#include "bench/svg_chart.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_format.h"

namespace tandem::bench {
namespace {

constexpr double kWidth = 900;
constexpr double kMargin = 20;
constexpr double kGap = 20;  // between charts
constexpr double kPanelHeight = 270;
constexpr double kPlotLeft = 62;  // room for the numbers of the y axis
constexpr double kPlotRight = 14;
constexpr double kPlotTop = 34;
constexpr double kPlotBottom = 46;
constexpr double kLineHeight = 17;
constexpr int kTicks = 5;
constexpr size_t kSubtitleChars = 135;

// Told apart by most colour-blind readers (Okabe and Ito, 2008), dark ones first.
constexpr std::array<const char*, 7> kColors = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                "#56b4e9", "#e69f00", "#444444"};

std::string Escaped(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        // XML 1.0 has no other control characters.
        escaped += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return escaped;
}

std::string Text(double x, double y, const char* anchor, int size, const std::string& text,
                 const char* more = "") {
  return absl::StrFormat(
      "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"%d\"%s>%s</text>\n", x, y, anchor,
      size, more, Escaped(text));
}

std::string Line(double x1, double y1, double x2, double y2, const char* color) {
  return absl::StrFormat("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n",
                         x1, y1, x2, y2, color);
}

// The distance of the marks of an axis that reaches `most`: 1, 2 or 5 times a power of ten.
double TickStep(double most) {
  const double rough = most / kTicks;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (rough <= factor * power * (1 + 1e-9)) return factor * power;
  }
  return 10 * power;
}

struct Axis {
  double begin = 0.0;
  double end = 1.0;
  std::vector<double> marks = {0.0, 1.0};
  bool log = false;

  // 0 at the beginning, 1 at the end.
  double At(double value) const {
    if (log) return std::log10(value / begin) / std::log10(end / begin);
    return (value - begin) / (end - begin);
  }
};

Axis AxisTo(double most) {
  if (!(most > 0) || !std::isfinite(most)) return {};
  const double step = TickStep(most);
  Axis axis = {.end = std::ceil(most / step - 1e-9) * step, .marks = {}};
  for (double mark = 0; mark <= axis.end * (1 + 1e-9); mark += step) axis.marks.push_back(mark);
  return axis;
}

// Over whole powers of ten.
Axis LogAxis(double least, double most) {
  if (!(least > 0) || !std::isfinite(most)) return {.begin = 0.1, .marks = {0.1, 1.0}, .log = true};
  const double first = std::floor(std::log10(least) + 1e-9);
  const double last = std::max(std::ceil(std::log10(most) - 1e-9), first + 1);
  Axis axis = {
      .begin = std::pow(10.0, first), .end = std::pow(10.0, last), .marks = {}, .log = true};
  for (double power = first; power <= last; ++power) axis.marks.push_back(std::pow(10.0, power));
  return axis;
}

std::vector<Point> DrawnPoints(const Chart& chart, const Series& series) {
  std::vector<Point> points = series.points;
  if (chart.log_y) std::erase_if(points, [](const Point& point) { return !(point.y > 0); });
  return points;
}

// The largest and the smallest of what is drawn; 0 when nothing is.
struct Extent {
  double least = 0.0;
  double most = 0.0;
};

Extent ExtentOf(const Chart& chart, double Point::*value) {
  Extent extent;
  bool first = true;
  for (const Series& series : chart.series) {
    for (const Point& point : DrawnPoints(chart, series)) {
      extent.least = first ? point.*value : std::min(extent.least, point.*value);
      extent.most = std::max(extent.most, point.*value);
      first = false;
    }
  }
  return extent;
}

struct Box {
  double x0 = 0.0, y0 = 0.0, x1 = 0.0, y1 = 0.0;

  bool Touches(const Box& other) const {
    return x0 < other.x1 && other.x0 < x1 && y0 < other.y1 && other.y0 < y1;
  }
};

// Marks with their names beside them, where there is room: right, left, above or below.
//   at     where the points are
//   frame  what names stay inside of
std::string NamedPoints(const Chart& chart, const std::vector<std::vector<Point>>& at,
                        const Box& frame) {
  constexpr double kRadius = 5;
  constexpr double kCharWidth = 7.4;
  constexpr double kHeight = 15;
  std::string svg;
  std::vector<Box> taken;
  for (const std::vector<Point>& points : at) {
    for (const Point& p : points) {
      taken.push_back({p.x - kRadius, p.y - kRadius, p.x + kRadius, p.y + kRadius});
    }
  }
  for (size_t i = 0; i < at.size(); ++i) {
    const std::string& name = chart.series[i].name;
    const double width = kCharWidth * static_cast<double>(name.size());
    for (const Point& p : at[i]) {
      const double beside = kRadius + 4, apart = kRadius + 3;
      const double middle =
          std::clamp(p.x, frame.x0 + width / 2, std::max(frame.x0, frame.x1 - width) + width / 2);
      const std::array<Box, 4> places = {
          Box{p.x + beside, p.y - kHeight / 2, p.x + beside + width, p.y + kHeight / 2},
          Box{p.x - beside - width, p.y - kHeight / 2, p.x - beside, p.y + kHeight / 2},
          Box{middle - width / 2, p.y - apart - kHeight, middle + width / 2, p.y - apart},
          Box{middle - width / 2, p.y + apart, middle + width / 2, p.y + apart + kHeight}};
      const auto fits = [&](const Box& place) {
        if (place.x0 < frame.x0 || place.x1 > frame.x1 || place.y0 < frame.y0 ||
            place.y1 > frame.y1) {
          return false;
        }
        return std::none_of(taken.begin(), taken.end(),
                            [&](const Box& other) { return place.Touches(other); });
      };
      const auto found = std::find_if(places.begin(), places.end(), fits);
      const size_t chosen = found == places.end() ? 0 : found - places.begin();
      const Box& place = places[chosen];
      taken.push_back(place);
      svg += absl::StrFormat("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.0f\" fill=\"%s\"/>\n", p.x, p.y,
                             kRadius, kColors[i % kColors.size()]);
      const double text_x = chosen == 0 ? place.x0 : chosen == 1 ? place.x1 : middle;
      const char* const anchor = chosen == 0 ? "start" : chosen == 1 ? "end" : "middle";
      svg += Text(text_x, place.y1 - 3, anchor, 13, name);
    }
  }
  return svg;
}

// One chart in the rectangle from (left, top).
std::string Panel(const Chart& chart, double left, double top, double width) {
  const double x0 = left + kPlotLeft;
  const double x1 = left + width - kPlotRight;
  const double y0 = top + kPanelHeight - kPlotBottom;  // the x axis
  const double y1 = top + kPlotTop;
  std::string svg = Text(left + width / 2, top + 20, "middle", 15, chart.title);
  const Extent y_extent = ExtentOf(chart, &Point::y);
  const Axis x_axis = AxisTo(ExtentOf(chart, &Point::x).most);
  const Axis y_axis = chart.log_y ? LogAxis(y_extent.least, y_extent.most) : AxisTo(y_extent.most);
  const auto at_x = [&](double x) { return x0 + (x1 - x0) * x_axis.At(x); };
  const auto at_y = [&](double y) { return y0 - (y0 - y1) * y_axis.At(y); };
  for (const double x : x_axis.marks) {
    svg += Line(at_x(x), y0, at_x(x), y1, "#e4e4e4");
    svg += Text(at_x(x), y0 + 16, "middle", 12, absl::StrFormat("%.6g", x));
  }
  for (const double y : y_axis.marks) {
    svg += Line(x0, at_y(y), x1, at_y(y), "#e4e4e4");
    const std::string number =
        y_axis.log ? absl::StrFormat("1e%.0f", std::log10(y)) : absl::StrFormat("%.6g", y);
    svg += Text(x0 - 6, at_y(y) + 4, "end", 12, number);
  }
  svg += Line(x0, y0, x1, y0, "#555555");
  svg += Line(x0, y0, x0, y1, "#555555");
  svg += Text((x0 + x1) / 2, y0 + 36, "middle", 13, chart.x_label);
  const double label_x = left + 14;
  const double label_y = (y0 + y1) / 2;
  svg += Text(label_x, label_y, "middle", 13, chart.y_label,
              absl::StrFormat(" transform=\"rotate(-90 %.1f %.1f)\"", label_x, label_y).c_str());
  std::vector<std::vector<Point>> at;  // by series, where its points are
  for (const Series& series : chart.series) {
    std::vector<Point>& points = at.emplace_back(DrawnPoints(chart, series));
    for (Point& point : points) point = {.x = at_x(point.x), .y = at_y(point.y)};
  }
  const bool empty = std::all_of(at.begin(), at.end(),
                                 [](const std::vector<Point>& points) { return points.empty(); });
  if (empty) svg += Text((x0 + x1) / 2, label_y, "middle", 13, "nothing was measured");
  if (chart.named_points) return svg + NamedPoints(chart, at, {x0, y1, x1, y0});
  for (size_t i = 0; i < at.size(); ++i) {
    if (at[i].empty()) continue;
    svg += absl::StrFormat(
        "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-linejoin=\"round\" "
        "points=\"",
        kColors[i % kColors.size()]);
    for (size_t p = 0; p < at[i].size(); ++p) {
      svg += absl::StrFormat("%s%.2f,%.2f", p > 0 ? " " : "", at[i][p].x, at[i][p].y);
    }
    svg += "\"/>\n";
  }
  return svg;
}

// The names of the series beside their colours, from `left` on in as many lines as they need.
std::string Legend(const Chart& chart, double left, double right, double& top) {
  constexpr double kCharWidth = 7.4;
  std::string svg;
  double x = left;
  for (size_t i = 0; i < chart.series.size(); ++i) {
    const std::string& name = chart.series[i].name;
    const double width = 40 + kCharWidth * static_cast<double>(name.size());
    if (x > left && x + width > right) {
      x = left;
      top += kLineHeight;
    }
    svg += absl::StrFormat(
        "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
        "stroke-width=\"3\"/>\n",
        x, top - 4, x + 20, top - 4, kColors[i % kColors.size()]);
    svg += Text(x + 26, top, "start", 13, name);
    x += width;
  }
  return svg;
}

bool SameNames(const Chart& a, const Chart& b) {
  return std::equal(a.series.begin(), a.series.end(), b.series.begin(), b.series.end(),
                    [](const Series& x, const Series& y) { return x.name == y.name; });
}

}  // namespace

std::string RenderSvg(const std::string& title, const std::vector<std::string>& subtitle,
                      const std::vector<Chart>& charts) {
  double top = kMargin + 12;
  std::string body = Text(kMargin, top, "start", 18, title, " font-weight=\"bold\"");
  for (const std::string& line : subtitle) {
    top += kLineHeight;
    const std::string shown =
        line.size() > kSubtitleChars ? line.substr(0, kSubtitleChars - 3) + "..." : line;
    body += Text(kMargin, top, "start", 12, shown, " fill=\"#555555\"");
  }
  top += kLineHeight + 8;
  if (!charts.empty() && !charts[0].named_points) {
    body += Legend(charts[0], kMargin, kWidth - kMargin, top);
  }
  top += 12;

  bool second = false;  // of a row of two
  const double half = (kWidth - 2 * kMargin - kGap) / 2;
  for (const Chart& chart : charts) {
    if (second && chart.wide) {
      top += kPanelHeight + kGap;
      second = false;
    }
    const double left = second ? kMargin + half + kGap : kMargin;
    const double width = chart.wide ? kWidth - 2 * kMargin : half;
    body += Panel(chart, left, top, width);
    const bool own_legend = !chart.named_points && !SameNames(chart, charts[0]);
    if (chart.series.size() > 1 && own_legend) {
      double legend_top = top + kPlotTop + kLineHeight;
      body += Legend(chart, left + kPlotLeft + 10, left + width, legend_top);
    }
    second = !chart.wide && !second;
    if (!second) top += kPanelHeight + kGap;
  }
  if (second) top += kPanelHeight + kGap;
  return absl::StrFormat(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
             "viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\" fill=\"#222222\">\n"
             "<rect width=\"100%%\" height=\"100%%\" fill=\"#fcfcfc\"/>\n",
             kWidth, top, kWidth, top) +
         body + "</svg>\n";
}

}  // namespace tandem::bench
