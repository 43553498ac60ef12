// The picture of KV formats: bytes that a token takes against how far the model's words move.
#pragma once

#include <string>
#include <vector>

namespace tandem::bench {

struct KvPlotPoint {
  std::string name;  // of the format
  double bytes_per_token = 0.0;
  double mean_kl = 0.0;  // nats; 0 has no place on the axis
};

//   subtitle  lines under the title
std::string KvPlotSvg(const std::string& title, const std::vector<std::string>& subtitle,
                      const std::vector<KvPlotPoint>& points);

}  // namespace tandem::bench
