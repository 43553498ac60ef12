#include "server/cli/progress.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/cli/format.h"

namespace tandem::server {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr double kEventSeconds = 1.0;
constexpr std::string_view kEraseLine = "\r\x1b[K";

struct Rate {
  double share = 0.0;
  double bytes_per_s = 0.0;
  double eta_s = 0.0;
};

Rate Measure(uint64_t done, uint64_t total, double elapsed_s) {
  Rate rate;
  rate.share = total == 0 ? 1.0 : std::min(1.0, static_cast<double>(done) / total);
  rate.bytes_per_s = elapsed_s > 0 ? done / elapsed_s : 0.0;
  if (rate.bytes_per_s > 0 && total > done) rate.eta_s = (total - done) / rate.bytes_per_s;
  return rate;
}

}  // namespace

std::string ProgressBar(uint64_t done_bytes, uint64_t total_bytes, double elapsed_s,
                        const Terminal& terminal) {
  const Rate rate = Measure(done_bytes, total_bytes, elapsed_s);
  const std::string total = BytesText(total_bytes);
  // "5.0/7.9 GiB": both in the unit of the total.
  const double unit = total_bytes > 0 ? total_bytes / std::stod(total) : 1.0;
  const std::string eta =
      rate.bytes_per_s > 0 ? absl::StrFormat("%.0f", std::ceil(rate.eta_s)) : std::string("?");
  const std::string numbers =
      absl::StrFormat("%3.0f %%  %.1f/%s  %s/s  eta %s s", std::floor(rate.share * 100),
                      done_bytes / unit, total, BytesText(rate.bytes_per_s), eta);
  const std::string label = "loading  ";
  // The numbers change their width by some columns; the bar keeps its own.
  constexpr int kNumberColumns = 46;
  const int room = terminal.columns - static_cast<int>(label.size()) - kNumberColumns;
  const int width = std::clamp(room, 0, 40);
  const int full = static_cast<int>(rate.share * width);
  std::string bar;
  for (int i = 0; i < width; ++i) {
    if (terminal.utf8) {
      bar += i < full ? "█" : "░";
    } else {
      bar += i < full ? "#" : ".";
    }
  }
  return label + bar + (width > 0 ? " " : "") + numbers;
}

std::string ProgressEvent(uint64_t done_bytes, uint64_t total_bytes, double elapsed_s) {
  const Rate rate = Measure(done_bytes, total_bytes, elapsed_s);
  return absl::StrFormat(
      "loading: percent=%.0f done_bytes=%d total_bytes=%d bytes_per_s=%.0f eta_s=%.1f",
      std::floor(rate.share * 100), done_bytes, total_bytes, rate.bytes_per_s, rate.eta_s);
}

Progress::Progress(const Terminal& terminal, std::function<void(std::string_view)> write,
                   std::function<double()> now_s)
    : terminal_(terminal), write_(std::move(write)), now_s_(std::move(now_s)), begin_s_(now_s_()) {}

void Progress::Update(uint64_t done_bytes, uint64_t total_bytes) {
  const double elapsed = elapsed_s();
  if (terminal_.interactive) {
    if (drawn_s_ >= 0 && elapsed - drawn_s_ < kRedrawSeconds && done_bytes < total_bytes) return;
    drawn_s_ = elapsed;
    write_(std::string(kEraseLine) + ProgressBar(done_bytes, total_bytes, elapsed, terminal_));
    return;
  }
  const int tenths = total_bytes == 0 ? 10 : static_cast<int>(done_bytes * 10 / total_bytes);
  if (tenths <= tenths_ || elapsed - event_s_ < kEventSeconds) return;
  tenths_ = tenths;
  event_s_ = elapsed;
  write_(ProgressEvent(done_bytes, total_bytes, elapsed));
}

void Progress::Clear() {
  if (drawn_s_ < 0) return;
  drawn_s_ = -1.0;
  write_(kEraseLine);
}

}  // namespace tandem::server
