// Charts of lines or of named points as one self-contained SVG: no scripts, no fonts or styles from
// elsewhere.
//
// Not here  what is drawn (run_plot.h, kv_plot.h).
#pragma once

#include <string>
#include <vector>

namespace tandem::bench {

struct Point {
  double x = 0.0;
  double y = 0.0;
};

struct Series {
  std::string name;  // of the legend, or beside each of its points
  std::vector<Point> points;
};

struct Chart {
  std::string title;
  std::string x_label;  // with the unit
  std::string y_label;
  bool wide = false;          // a row of its own; others stand two in a row
  bool named_points = false;  // marks with names beside them, instead of lines and a legend
  bool log_y = false;         // a power of ten as far from the next as that one; y of 0 and below
                              // has no place there and is not drawn
  std::vector<Series> series;
};

// 900 units wide on a light ground. Axes begin at 0, logarithmic ones at a power of ten, and end at
// a round number; a chart without points says so. The names of the first chart's series stand over
// all charts, for those that have the same; a chart with others shows its own.
//   subtitle  lines under the title
std::string RenderSvg(const std::string& title, const std::vector<std::string>& subtitle,
                      const std::vector<Chart>& charts);

}  // namespace tandem::bench
