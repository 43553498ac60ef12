#include "server/text/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "server/text/utf8.h"

namespace tandem::server {
namespace {

// The automaton after one more byte: how much of `pattern` the text ends with, having ended with
// its first `length` bytes.
uint16_t Advance(std::string_view pattern, const std::vector<uint16_t>& border, uint16_t length,
                 char byte) {
  while (length > 0 && (length == pattern.size() || pattern[length] != byte)) {
    length = border[length];
  }
  return pattern[length] == byte ? length + 1 : 0;
}

std::vector<uint16_t> Borders(std::string_view pattern) {
  std::vector<uint16_t> border(pattern.size() + 1, 0);
  for (size_t n = 1; n < pattern.size(); ++n) {
    border[n + 1] = Advance(pattern, border, border[n], pattern[n]);
  }
  return border;
}

}  // namespace

absl::StatusOr<StopMatcher> StopMatcher::Create(std::vector<std::string> stops, bool include_stop) {
  if (stops.size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "stop has %d strings but at most %d are allowed", stops.size(), kMaxStopStrings));
  }
  StopMatcher matcher;
  matcher.include_stop_ = include_stop;
  for (size_t i = 0; i < stops.size(); ++i) {
    const std::string& text = stops[i];
    if (text.empty() || text.size() > kMaxStopStringBytes) {
      return absl::InvalidArgumentError(absl::StrFormat("stop[%d] is %d bytes but must be 1 to %d",
                                                        i, text.size(), kMaxStopStringBytes));
    }
    if (!IsValidUtf8(text)) {
      return absl::InvalidArgumentError(absl::StrFormat("stop[%d] is not valid UTF-8", i));
    }
    std::vector<uint16_t> border = Borders(text);
    matcher.patterns_.push_back({.text = std::move(stops[i]), .border = std::move(border)});
  }
  return matcher;
}

std::string StopMatcher::Push(std::string_view text, bool may_stop) {
  if (matched_.has_value()) return "";
  for (const char byte : text) {
    withheld_.push_back(byte);
    for (size_t i = 0; i < patterns_.size(); ++i) {
      Pattern& p = patterns_[i];
      p.length = Advance(p.text, p.border, p.length, byte);
      const bool longer = !matched_.has_value() || p.text.size() > patterns_[*matched_].text.size();
      if (may_stop && p.length == p.text.size() && longer) matched_ = static_cast<int>(i);
    }
    if (matched_.has_value()) {
      const size_t stop_bytes = patterns_[*matched_].text.size();
      std::string shown = Release(withheld_.size() - (include_stop_ ? 0 : stop_bytes));
      withheld_.clear();
      return shown;
    }
  }
  size_t possible = 0;  // bytes that may yet become a stop string
  for (const Pattern& p : patterns_) {
    const bool whole = p.length == p.text.size();  // it may not stop here; an overlapping one may
    possible = std::max<size_t>(possible, whole ? p.border[p.length] : p.length);
  }
  return Release(withheld_.size() - possible);
}

std::string StopMatcher::Finish() {
  for (Pattern& p : patterns_) p.length = 0;
  return Release(withheld_.size());
}

// Takes the first `bytes` of what was withheld.
std::string StopMatcher::Release(size_t bytes) {
  std::string shown = withheld_.substr(0, bytes);
  withheld_.erase(0, bytes);
  return shown;
}

}  // namespace tandem::server
