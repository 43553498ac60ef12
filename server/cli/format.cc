#include "server/cli/format.h"

#include <array>
#include <cmath>
#include <ctime>
#include <string_view>

#include "absl/strings/str_format.h"

namespace tandem::server {

std::string BytesText(double bytes) {
  constexpr std::array<std::string_view, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  // 1023.95 of a unit would be printed as 1024.0 of it.
  while (unit + 1 < kUnits.size() && bytes >= 1023.95) {
    bytes /= 1024;
    ++unit;
  }
  return absl::StrFormat(unit == 0 ? "%.0f %s" : "%.1f %s", bytes, std::string(kUnits[unit]));
}

std::string CountText(int64_t count) {
  const std::string digits = std::to_string(count);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    const bool starts_group = (digits.size() - i) % 3 == 0;
    if (i > 0 && starts_group && digits[i - 1] != '-') text += ' ';
    text += digits[i];
  }
  return text;
}

std::string ParametersText(uint64_t n) {
  if (n >= 1'000'000'000) return absl::StrFormat("%.2f B", n / 1e9);
  if (n >= 1'000'000) return absl::StrFormat("%.1f M", n / 1e6);
  return CountText(static_cast<int64_t>(n));
}

std::string SecondsText(double seconds) {
  if (seconds < 0.9995) return absl::StrFormat("%.0f ms", seconds * 1000);
  if (seconds < 59.95) return absl::StrFormat("%.1f s", seconds);
  const int64_t whole = std::llround(seconds);
  return absl::StrFormat("%d min %d s", whole / 60, whole % 60);
}

std::string UtcDate() {
  const std::time_t now = std::time(nullptr);
  std::tm utc = {};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

}  // namespace tandem::server
