#include "bench/kv_plot.h"

#include "bench/svg_chart.h"

namespace tandem::bench {

std::string KvPlotSvg(const std::string& title, const std::vector<std::string>& subtitle,
                      const std::vector<KvPlotPoint>& points) {
  Chart chart = {.title = "Divergence of the next-token distributions",
                 .x_label = "KV bytes per token, all layers",
                 .y_label = "mean KL, nats",
                 .wide = true,
                 .named_points = true,
                 .log_y = true};
  for (const KvPlotPoint& point : points) {
    chart.series.push_back(
        {.name = point.name, .points = {{.x = point.bytes_per_token, .y = point.mean_kl}}});
  }
  return RenderSvg(title, subtitle, {chart});
}

}  // namespace tandem::bench
